//! `bottle audit`: whether an audit log is whole.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use bottle_policy::audit::verify;

use crate::error::{Context, Error, Kind, Result};
use crate::manifest::neutral;
use crate::state::Roots;

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
    /// Each line holds the hash of the one before. That lines were cut off the end does not show:
    /// compare the last hash with one that you kept. Exit code 5 when the chain is broken, 3 when
    /// the log cannot be read.
    Verify {
        /// A bottle (running or not), or a file.
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

/// The logs of the bottle of this name, if there is one, else the file.
fn find(roots: &Roots, log: &Path) -> Result<Logs> {
    let bottle = log.to_str().and_then(|name| super::logs::existing(roots, name).ok());
    match bottle {
        Some(dir) => Ok(Logs { paths: dir.audits(), live: dir.status().is_some_and(|s| s.alive) }),
        None if log.exists() => Ok(Logs { paths: vec![log.to_owned()], live: false }),
        None => Err(Error::new(
            Kind::Config,
            format!("there is no bottle and no file {:?}", neutral(&log.to_string_lossy())),
        )
        .hint("bottle list")),
    }
}

/// What to say about a log that is whole.
fn check(path: &Path, live: bool) -> Result<String> {
    let shown = neutral(&path.display().to_string());
    let what = || format!("cannot read {shown}");
    // A FIFO would wait for a writer.
    if !fs::metadata(path).context(Kind::Config, what)?.is_file() {
        return Err(Error::new(Kind::Config, format!("{shown} is not a regular file")));
    }
    let mut file = File::open(path).context(Kind::Config, what)?;
    let whole = if live { whole_lines(&mut file).context(Kind::Config, what)? } else { u64::MAX };
    match verify(file.take(whole)) {
        Ok(log) => Ok(format!("{shown}: whole, {} lines, last hash {}", log.lines, log.last_hash)),
        Err(broken) => Err(Error::new(Kind::SelfTest, format!("{shown} is not whole: {broken}"))
            .hint("keep the file as evidence; nothing from that line on can be relied on")),
    }
}

/// Bytes up to the end of the last line that is whole: a daemon may be in the middle of the next
/// one.
fn whole_lines(file: &mut File) -> std::io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    const LINE_MAX: u64 = 256 * 1024;
    let len = file.metadata()?.len();
    let start = len.saturating_sub(LINE_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(len - start).read_to_end(&mut end)?;
    file.seek(SeekFrom::Start(0))?;
    let torn = end.iter().rev().take_while(|b| **b != b'\n').count() as u64;
    // No line end at all: then the whole is for `verify` to judge.
    Ok(if torn == end.len() as u64 { len } else { start + end.len() as u64 - torn })
}

#[cfg(test)]
mod tests {
    use bottle_policy::audit::{AuditEvent, AuditVerdict, AuditWriter, Line};

    use super::*;

    fn planted(path: &Path) {
        let log = AuditWriter::open(path, "egress").unwrap();
        for n in 0..5 {
            let event = AuditEvent {
                path: Some(format!("/{n}")),
                ..AuditEvent::new("egress", "request", AuditVerdict::Allow)
            };
            log.append(Line::Opening, event).unwrap();
        }
    }

    #[test]
    fn a_whole_log_is_whole_and_a_broken_one_names_its_first_broken_line() {
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
    fn a_line_that_is_being_written_is_no_break() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        planted(&path);
        let mut text = fs::read(&path).unwrap();
        text.extend(b"{\"v\":1,");
        fs::write(&path, &text).unwrap();
        assert!(check(&path, true).unwrap().contains("whole, 5 lines"));
        assert_eq!(check(&path, false).unwrap_err().kind(), Kind::SelfTest);
        fs::write(&path, "no line end").unwrap();
        assert_eq!(check(&path, true).unwrap_err().kind(), Kind::SelfTest);
    }

    #[test]
    fn a_name_is_a_bottle_before_it_is_a_file_and_what_cannot_be_read_is_3() {
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
