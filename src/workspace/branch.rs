//! Changes of a guest as a commit on a branch of the operator's repository, without touching its
//! files.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::baseline::Kept;
use super::changes::Changes;
use crate::error::{Context, Error, Kind, Result};

/// Commits `changes`, whose content is in `taken`, on top of HEAD of the repository that `root` is
/// in, as the new branch `name`.
///
/// # Errors
/// `Config` when it is no repository, or the branch is there already.
pub fn commit(
    git: &Path,
    root: &Path,
    name: &str,
    changes: &Changes,
    taken: &Path,
    message: &str,
) -> Result<()> {
    let what = || format!("cannot make the branch {name}");
    let run = |args: &[&str]| {
        let output = command(git, root)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .context(Kind::Engine, what)?;
        let said =
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        let printed = String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned();
        if output.status.success() {
            Ok(printed)
        } else {
            Err(Error::new(Kind::Config, format!("{}: {said}", what())))
        }
    };
    run(&["check-ref-format", "--branch", name])?;
    let head = run(&["rev-parse", "--verify", "HEAD^{commit}"])?;
    let prefix = run(&["rev-parse", "--show-prefix"])?;
    let reference = format!("refs/heads/{name}");
    if run(&["show-ref", "--verify", "--quiet", &reference]).is_ok() {
        return Err(Error::new(Kind::Config, format!("there is a branch {name} already"))
            .hint("--branch with another name"));
    }
    // Who a commit without a configured identity is by, git would ask; here the bottle is.
    let ident = run(&["var", "GIT_COMMITTER_IDENT"])
        .unwrap_or_else(|_| "bottle <bottle@localhost> 0 +0000".to_owned());
    let mut stream = format!(
        "commit {reference}\ncommitter {ident}\ndata {}\n{message}\nfrom {head}\n",
        message.len()
    )
    .into_bytes();
    for change in &changes.list {
        let path = quoted(&format!("{prefix}{}", change.path.display()));
        match &change.after {
            None => stream.extend(format!("D {path}\n").bytes()),
            Some(Kept::Link(target)) => stream.extend(
                format!("M 120000 inline {path}\ndata {}\n{target}\n", target.len()).bytes(),
            ),
            Some(Kept::File { executable, .. }) => {
                let content =
                    std::fs::read(taken.join(&change.path)).context(Kind::Config, what)?;
                let mode = if *executable { "100755" } else { "100644" };
                stream.extend(format!("M {mode} inline {path}\ndata {}\n", content.len()).bytes());
                stream.extend(content);
                stream.push(b'\n');
            }
        }
    }
    stream.extend(b"done\n");
    let mut import = command(git, root);
    import
        .args(["fast-import", "--quiet", "--done"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut import = import.spawn().context(Kind::Engine, what)?;
    let written = import.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&stream));
    let output = import.wait_with_output().context(Kind::Engine, what)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(
            Kind::Config,
            format!("{}: {}", what(), said.lines().next().unwrap_or_default()),
        ));
    }
    written.context(Kind::Engine, what)
}

/// The closure's git, with the operator's own identity and none of the programs that a repository's
/// configuration may name.
fn command(git: &Path, root: &Path) -> Command {
    let mut command = Command::new(git);
    command
        .env_clear()
        .current_dir(root)
        .env("GIT_EXEC_PATH", git.parent().unwrap_or(Path::new("/")).join("../lib/git-core"));
    command
        .env("HOME", std::env::var_os("HOME").unwrap_or_default())
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C");
    command.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]);
    command
}

/// A path as fast-import reads it.
fn quoted(path: &str) -> String {
    format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
}
