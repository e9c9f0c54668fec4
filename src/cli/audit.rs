//! `bottle audit`: checks that an audit log is whole.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use bottle_policy::audit::verify;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::logs::follow::whole_lines_bytes;
use crate::state::Roots;
use crate::values::neutral;

/// Check audit logs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check that no line of an audit log was changed, removed or swapped.
    ///
    /// Each line holds the hash of the line before it. This cannot show that lines were cut off the
    /// end: for that, compare the last hash with one that you kept. The exit code is 5 when the
    /// chain is broken and 3 when the log cannot be read.
    Verify {
        /// Name of a bottle (running or not), or a file.
        #[arg(value_name = "NAME|FILE")]
        log: PathBuf,
    },
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let Command::Verify { log } = &self.command;
        let Logs { paths, live } = find(&Roots::from_environment()?, log)?;
        for path in &paths {
            println!("{}", check(path, live)?);
        }
        Ok(0)
    }
}

struct Logs {
    paths: Vec<PathBuf>,
    /// A daemon may be writing to them.
    live: bool,
}

/// The logs of the bottle with this name, if there is one; otherwise the file.
fn find(roots: &Roots, log: &Path) -> Result<Logs> {
    let bottle = log.to_str().and_then(|name| super::logs::existing(roots, name).ok());
    match bottle {
        Some(dir) => Ok(Logs {
            paths: dir.audits().into_iter().map(Into::into).collect(),
            live: dir.status().is_some_and(|s| s.alive),
        }),
        None if log.exists() => Ok(Logs { paths: vec![log.to_owned()], live: false }),
        None => Err(Error::new(
            ErrorKind::Config,
            format!("there is no bottle and no file {:?}", neutral(&log.to_string_lossy())),
        )
        .hint("bottle list")),
    }
}

/// Describes a log that is whole.
fn check(path: &Path, live: bool) -> Result<String> {
    let shown = neutral(&path.display().to_string());
    let what = || format!("cannot read {shown}");
    // A FIFO would wait for a writer.
    if !fs::metadata(path).context(ErrorKind::Config, what)?.is_file() {
        return Err(Error::new(ErrorKind::Config, format!("{shown} is not a regular file")));
    }
    let mut file = File::open(path).context(ErrorKind::Config, what)?;
    let whole = if live {
        whole_lines_bytes(&mut file).context(ErrorKind::Config, what)?
    } else {
        u64::MAX
    };
    match verify(file.take(whole)) {
        Ok(log) => Ok(format!("{shown}: whole, {} lines, last hash {}", log.lines, log.last_hash)),
        Err(broken) => Err(Error::new(ErrorKind::Audit, format!("{shown} is not whole: {broken}"))
            .hint("keep the file as evidence; nothing from that line on can be relied on")),
    }
}

#[cfg(test)]
mod tests {
    use bottle_policy::audit::{AuditEvent, AuditWriter, Line, Verdict};

    use super::*;

    fn planted(path: &Path) {
        let log = AuditWriter::open(path, "egress").unwrap();
        for n in 0..5 {
            let event = AuditEvent {
                path: Some(format!("/{n}")),
                ..AuditEvent::new("egress", "request", Verdict::Allow)
            };
            log.append(Line::Opening, event).unwrap();
        }
    }

    #[test]
    fn a_broken_log_names_its_first_broken_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        planted(&path);
        assert!(check(&path, false).unwrap().contains("whole, 5 lines, last hash "));
        let text = fs::read_to_string(&path).unwrap();
        for (broken, line) in [
            (text.replace("\"/2\"", "\"/9\""), "line 3: its text was changed"),
            (text.split_inclusive('\n').filter(|l| !l.contains("\"/1\"")).collect(), "line 2: "),
            (text.replacen('\n', "\n\u{1b}[2J\n", 1), "line 2: not an audit record"),
            (text.trim_end().to_owned(), "line 5: unfinished"),
        ] {
            fs::write(&path, broken).unwrap();
            let e = check(&path, false).unwrap_err();
            assert!(e.to_string().contains(line) && !e.to_string().contains('\u{1b}'), "{e}");
            assert_eq!(e.kind().exit_code(), 5);
        }
    }

    #[test]
    fn a_line_that_is_being_written_breaks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        planted(&path);
        let mut text = fs::read(&path).unwrap();
        text.extend(b"{\"v\":1,");
        fs::write(&path, &text).unwrap();
        assert!(check(&path, true).unwrap().contains("whole, 5 lines"));
        assert_eq!(check(&path, false).unwrap_err().kind(), ErrorKind::Audit);
        fs::write(&path, "no line end").unwrap();
        assert_eq!(check(&path, true).unwrap_err().kind(), ErrorKind::Audit);
    }

    #[test]
    fn a_bottle_is_preferred_to_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(dir.path().join("s"), dir.path().join("r")).unwrap();
        let bottle = dir.path().join("s/bottles/dead");
        fs::create_dir_all(&bottle).unwrap();
        planted(&bottle.join("audit.jsonl"));
        let found = find(&roots, Path::new("dead")).unwrap();
        assert!(found.paths == [bottle.join("audit.jsonl")] && !found.live);
        assert!(find(&roots, &bottle.join("audit.jsonl")).is_ok());
        for bad in [PathBuf::from("nobody"), dir.path().join("nothing")] {
            assert_eq!(find(&roots, &bad).err().map(|e| e.kind().exit_code()), Some(3));
        }
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for bad in [dir.path(), &pipe, &dir.path().join("nothing")] {
            assert_eq!(check(bad, false).unwrap_err().kind().exit_code(), 3);
        }
    }
}
