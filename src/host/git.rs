//! git on a tree that somebody else may have prepared.
//!
//! Every call gets the same environment: no hooks, no fsmonitor, no transport, no pager, no
//! prompts, no lazy fetch, and none of the system's configuration.

use std::path::Path;
use std::time::Duration;

use camino::Utf8Path;

use super::process::Program;
use crate::error::{Context, Error, ErrorKind, Result};

/// Longest run of one git command; listing or importing a large tree takes a while.
pub const DEADLINE: Duration = Duration::from_secs(600);

/// Whose configuration git reads, besides that of the repository it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    /// Nobody's. A repository of another user is refused.
    Repository,
    /// The operator's: identity, ignored files, `safe.directory`.
    Operator,
    /// The operator's, for a project that they named: whoever owns it, it is read as a repository.
    /// Without this, git takes a repository of another user for none, and what it tracks is lost.
    Project,
}

/// A hardened call of the closure's `git` in `dir`; arguments follow.
#[must_use]
pub fn command(git: &Utf8Path, dir: &Path, config: Config) -> Program {
    let libexec = git.parent().unwrap_or(Utf8Path::new("/")).join("../lib/git-core");
    let program = Program::new("git", git)
        .dir(dir)
        .env("GIT_EXEC_PATH", libexec)
        // No transport, whatever the repository's configuration allows.
        .env("GIT_ALLOW_PROTOCOL", "")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_PAGER", "cat")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .env("PATH", "/usr/bin:/bin");
    let program = match config {
        Config::Repository => program.env("GIT_CONFIG_GLOBAL", "/dev/null"),
        Config::Operator | Config::Project => {
            program.env("HOME", std::env::var_os("HOME").unwrap_or_default())
        }
    };
    let program = match config {
        Config::Project => program.args(["-c", "safe.directory=*"]),
        Config::Repository | Config::Operator => program,
    };
    // The repository's own configuration may name programs.
    program.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"])
}

/// Runs a call made by [`command`] and returns its standard output.
///
/// # Errors
/// `Engine` when git cannot be run; `Config`, with the first line of its standard error, when it
/// fails. Both begin with `what`.
pub fn run(program: Program, what: impl Fn() -> String) -> Result<Vec<u8>> {
    let output = program.output(DEADLINE).context(ErrorKind::Engine, &what)?.ok_or_else(|| {
        let seconds = DEADLINE.as_secs();
        Error::new(ErrorKind::Engine, format!("{}: git did not finish in {seconds} s", what()))
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let why = stderr.lines().next().unwrap_or_default();
    Err(Error::new(ErrorKind::Config, format!("{}: {why}", what())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn git() -> &'static Utf8Path {
        Utf8Path::new("/usr/bin/git")
    }

    /// A repository whose hook and fsmonitor write a file `ran` beside them.
    fn hostile() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let init = command(git(), dir.path(), Config::Repository).args(["init", "-q"]);
        run(init, || "init".into()).unwrap();
        let script = dir.path().join(".git/hooks/reference-transaction");
        std::fs::create_dir_all(script.parent().unwrap()).unwrap();
        let ran = dir.path().join("ran");
        std::fs::write(&script, format!("#!/bin/sh\ntouch {}\n", ran.display())).unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let config = format!("[core]\n\tfsmonitor = {}\n", script.display());
        let file = dir.path().join(".git/config");
        let config = std::fs::read_to_string(&file).unwrap() + &config;
        std::fs::write(&file, config).unwrap();
        dir
    }

    #[test]
    fn a_hostile_repository_runs_no_program_and_without_the_hardening_it_does() {
        let calls: [&[&str]; 2] = [
            &["update-index", "--refresh"],
            &[
                "-c",
                "user.name=x",
                "-c",
                "user.email=x@x.test",
                "commit",
                "-q",
                "--allow-empty",
                "-mx",
            ],
        ];
        for call in calls {
            let dir = hostile();
            let ran = dir.path().join("ran");
            run(command(git(), dir.path(), Config::Operator).args(call), || "git".into()).unwrap();
            assert!(!ran.exists(), "{call:?}");
            let bare =
                Program::new("git", git()).args(call).dir(dir.path()).env("HOME", "/nowhere");
            assert!(bare.output(DEADLINE).unwrap().unwrap().status.success());
            assert!(ran.exists(), "negative control of {call:?}");
        }
    }

    #[test]
    fn a_repository_of_another_user_is_read_where_the_operator_named_it_and_nowhere_else() {
        let dir = hostile();
        let tracked = |config| {
            let call = command(git(), dir.path(), config)
                .env("HOME", "/nowhere")
                .env("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1");
            run(call.args(["rev-parse", "--show-prefix"]), || "x".into())
        };
        assert!(tracked(Config::Project).is_ok());
        for config in [Config::Repository, Config::Operator] {
            let refused = tracked(config).unwrap_err().to_string();
            assert!(refused.contains("dubious ownership"), "{config:?}: {refused}");
        }
        // Its programs do not run there, either.
        let refresh = command(git(), dir.path(), Config::Project).args(["status", "--porcelain"]);
        run(refresh, || "x".into()).unwrap();
        assert!(!dir.path().join("ran").exists());
    }

    #[test]
    fn nothing_is_fetched_and_only_the_operators_own_configuration_is_read() {
        let dir = hostile();
        let fetch = ["ls-remote", dir.path().to_str().unwrap()];
        let refused = run(command(git(), dir.path(), Config::Operator).args(fetch), || "x".into());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("x: ") && refused.contains("not allowed"), "{refused}");
        let evil = "[protocol \"ext\"]\n\tallow = always\n";
        let file = dir.path().join(".git/config");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + evil).unwrap();
        let ran = dir.path().join("ran-by-ext");
        let url = format!("ext::sh -c touch% {}", ran.display());
        let ext = ["ls-remote", url.as_str()];
        run(command(git(), dir.path(), Config::Operator).args(ext), || "x".into()).unwrap_err();
        assert!(!ran.exists());
        let allowed = command(git(), dir.path(), Config::Operator).args(ext);
        let _ = allowed.env("GIT_ALLOW_PROTOCOL", "ext").output(DEADLINE);
        assert!(ran.exists(), "negative control");
        let list = |config| {
            let call = command(git(), dir.path(), config).env("HOME", dir.path());
            run(call.args(["config", "--list", "--show-scope"]), || "list".into()).unwrap()
        };
        std::fs::write(dir.path().join(".gitconfig"), "[user]\n\tname = operator\n").unwrap();
        let text = |config| String::from_utf8(list(config)).unwrap();
        assert!(text(Config::Operator).contains("global\tuser.name=operator"));
        assert!(!text(Config::Repository).contains("operator"));
        assert!(!text(Config::Operator).contains("system\t"));
    }
}
