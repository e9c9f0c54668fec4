//! Commits a guest's changes on a new branch of the operator's repository, without touching its
//! files.

use std::path::Path;

use camino::Utf8Path;

use super::baseline::FileState;
use super::changes::Changes;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::git::{self, Config};
use crate::host::process::Input;

/// Commits `changes`, whose content is in `taken`, on top of HEAD of the repository that `root` is
/// in, as the new branch `name`.
///
/// # Errors
/// `Config` when it is no repository, or the branch exists already.
pub fn commit(
    git: &Utf8Path,
    root: &Path,
    name: &str,
    changes: &Changes,
    taken: &Path,
    message: &str,
) -> Result<()> {
    let what = || format!("cannot make the branch {name}");
    let command = |args: &[&str]| git::command(git, root, Config::Operator).args(args);
    let run = |args: &[&str]| {
        let printed = git::run(command(args), what)?;
        Ok::<_, Error>(String::from_utf8_lossy(&printed).trim_end_matches('\n').to_owned())
    };
    run(&["check-ref-format", "--branch", name])?;
    let head = run(&["rev-parse", "--verify", "HEAD^{commit}"])?;
    let prefix = run(&["rev-parse", "--show-prefix"])?;
    let reference = format!("refs/heads/{name}");
    if run(&["show-ref", "--verify", "--quiet", &reference]).is_ok() {
        return Err(Error::new(ErrorKind::Config, format!("the branch {name} exists already"))
            .hint("--branch with another name"));
    }
    // Without a configured identity git would refuse to commit; then the author is the bottle.
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
            Some(FileState::Link(target)) => stream.extend(
                format!("M 120000 inline {path}\ndata {}\n{target}\n", target.len()).bytes(),
            ),
            Some(FileState::File { executable, .. }) => {
                let content =
                    std::fs::read(taken.join(&change.path)).context(ErrorKind::Io, what)?;
                let mode = if *executable { "100755" } else { "100644" };
                stream.extend(format!("M {mode} inline {path}\ndata {}\n", content.len()).bytes());
                stream.extend(content);
                stream.push(b'\n');
            }
        }
    }
    stream.extend(b"done\n");
    let import = command(&["fast-import", "--quiet", "--done"]);
    git::run(import.stdin(Input::Bytes(stream.into())), what).map(drop)
}

/// `path` in the quoting of fast-import.
fn quoted(path: &str) -> String {
    format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
}
