//! The closure's git: for the client, the gate and the upstream.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use bottle::closure::Closure;
use duct::{Expression, cmd};

use crate::process::timed;

/// A git program that reads no configuration of the host.
pub struct Git {
    program: PathBuf,
    exec_path: PathBuf,
}

impl Git {
    /// The git of `closure`.
    pub fn of(closure: &Closure) -> Result<Self, String> {
        let program = closure.tools.git.path.clone();
        let prefix = program.parent().and_then(Path::parent);
        let exec_path = prefix.map(|p| p.join("lib/git-core")).filter(|p| p.is_dir());
        let exec_path = exec_path.ok_or("the closure's git has no lib/git-core")?;
        Ok(Self { program, exec_path })
    }

    /// The command `git ARGS…` in `dir`, with the variables `extra`.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        dir: &Path,
        args: &[S],
        extra: &[(&str, &OsStr)],
    ) -> Expression {
        let settings =
            [("safe.directory", "*"), ("user.name", "bench"), ("user.email", "bench@example.test")];
        let mut environment: Vec<(String, OsString)> = vec![
            ("GIT_EXEC_PATH".into(), self.exec_path.clone().into()),
            ("GIT_CONFIG_NOSYSTEM".into(), "1".into()),
            ("GIT_CONFIG_GLOBAL".into(), "/dev/null".into()),
            ("GIT_TERMINAL_PROMPT".into(), "0".into()),
            ("GIT_CONFIG_COUNT".into(), settings.len().to_string().into()),
        ];
        for (i, (key, value)) in settings.iter().enumerate() {
            environment.push((format!("GIT_CONFIG_KEY_{i}"), key.into()));
            environment.push((format!("GIT_CONFIG_VALUE_{i}"), value.into()));
        }
        environment.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), value.into())));
        cmd(&self.program, args.iter().map(AsRef::as_ref)).dir(dir).full_env(environment)
    }

    /// Runs `git ARGS…` in `dir` to its end.
    pub fn run(&self, dir: &Path, args: &[&str]) -> Result<(), String> {
        timed(self.command(dir, args, &[])).map(drop)
    }
}
