//! Appending to the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::{Flock, FlockArg};
use time::OffsetDateTime;
use time::macros::format_description;

use super::{AuditEvent, AuditRecord, GENESIS, Verdict, line_hash, split_line};

/// More than the longest line that a writer makes (8 fields of `FIELD_CAP` characters, each up to 10 bytes escaped).
const LINE_MAX: u64 = 256 * 1024;

/// Why a log cannot be opened or continued.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system refused.
    #[error("audit log {path}: {source}")]
    Io {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another writer holds it: two would fork the chain.
    #[error("audit log {0} is in use by another process")]
    Busy(PathBuf),
    /// Its last line is whole but not a link of a chain.
    #[error("audit log {0}: its last line was changed; keep the file as evidence, move it away and start again")]
    Damaged(PathBuf),
    /// An earlier write failed, so nothing more is accepted.
    #[error("audit log {0}: an earlier line could not be written")]
    Failed(PathBuf),
}

/// The one writer of a log: appends lines, each with a single write(2), and continues the chain of an existing file.
#[derive(Debug)]
pub struct AuditWriter {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Flock<File>,
    seq: u64,
    prev: String,
    failed: bool,
}

impl AuditWriter {
    /// Opens `path` for appending (mode 0600), locks it against other writers and reads its last line.
    ///
    /// An unfinished last line (a machine that stopped in the middle of a write) is removed, and a `recovered` line
    /// by `daemon` says how many bytes it had.
    ///
    /// # Errors
    /// [`AuditError::Io`], [`AuditError::Busy`] or [`AuditError::Damaged`].
    pub fn open(path: &Path, daemon: &str) -> Result<Self, AuditError> {
        let io = |source| AuditError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(io)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => AuditError::Busy(path.to_owned()),
            other => io(other.into()),
        })?;
        let (last, torn) = tail(&mut file).map_err(io)?;
        let (seq, prev) = match last {
            None => (0, GENESIS.to_owned()),
            Some(line) => link(&line).ok_or_else(|| AuditError::Damaged(path.to_owned()))?,
        };
        if torn > 0 {
            let len = file.metadata().map_err(io)?.len();
            file.set_len(len - torn).map_err(io)?;
        }
        let writer = Self { path: path.to_owned(), state: Mutex::new(State { file, seq, prev, failed: false }) };
        if torn > 0 {
            let mut event = AuditEvent::new(daemon, "recovered", Verdict::Allow);
            event.reason = Some(format!("{torn} bytes of an unfinished line were removed"));
            writer.append(event)?;
        }
        Ok(writer)
    }

    /// Appends one line.
    ///
    /// # Errors
    /// [`AuditError::Io`] when the write fails; from then on every call gives [`AuditError::Failed`], because a daemon
    /// that cannot account for what it lets through must let nothing through.
    pub fn append(&self, event: AuditEvent) -> Result<(), AuditError> {
        let io = |source| AuditError::Io { path: self.path.clone(), source };
        // A panic while the lock is held is impossible short of running out of memory; the state stays whole anyway.
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.failed {
            return Err(AuditError::Failed(self.path.clone()));
        }
        let record =
            AuditRecord { v: 1, seq: state.seq + 1, time: now(), what: event.cleaned(), prev: state.prev.clone(), hash: String::new() };
        let mut line = serde_json::to_vec(&record).map_err(|e| io(e.into()))?;
        line.pop(); // the closing brace
        let hash = line_hash(&record.prev, &line);
        line.extend_from_slice(format!(",\"hash\":\"{hash}\"}}\n").as_bytes());
        let wrote = state.file.write(&line);
        match wrote {
            Ok(n) if n == line.len() => {
                state.seq += 1;
                state.prev = hash;
                Ok(())
            }
            Ok(_) => {
                state.failed = true;
                Err(io(io::Error::new(io::ErrorKind::WriteZero, "the disk is full")))
            }
            Err(e) => {
                state.failed = true;
                Err(io(e))
            }
        }
    }

    /// Whether a write has failed, after which nothing is accepted.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).failed
    }
}

/// The last whole line, if any, and the bytes after the last newline.
fn tail(file: &mut File) -> io::Result<(Option<Vec<u8>>, u64)> {
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(2 * LINE_MAX)))?;
    let mut end = Vec::new();
    file.take(len.min(2 * LINE_MAX)).read_to_end(&mut end)?;
    let Some(newline) = end.iter().rposition(|b| *b == b'\n') else {
        return Ok((None, end.len() as u64));
    };
    let torn = (end.len() - newline - 1) as u64;
    let start = end[..newline].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    Ok((Some(end[start..newline].to_vec()), torn))
}

/// Sequence number and hash of a line that is whole.
fn link(line: &[u8]) -> Option<(u64, String)> {
    let record: AuditRecord = serde_json::from_slice(line).ok()?;
    let (body, hash) = split_line(line)?;
    (line_hash(&record.prev, body) == hash).then(|| (record.seq, hash.to_owned()))
}

fn now() -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(&format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{FIELD_CAP, verify};
    use super::*;
    use std::fs;

    fn event(path: &str) -> AuditEvent {
        AuditEvent { path: Some(path.to_owned()), ..AuditEvent::new("egress", "request", Verdict::Allow) }
    }

    fn log(dir: &Path) -> PathBuf {
        let path = dir.join("audit.jsonl");
        let w = AuditWriter::open(&path, "egress").unwrap();
        for n in 0..3 {
            w.append(event(&format!("/{n}"))).unwrap();
        }
        path
    }

    #[test]
    fn a_second_writer_continues_the_chain() {
        let dir = tempfile::tempdir().unwrap();
        let path = log(dir.path());
        AuditWriter::open(&path, "egress").unwrap().append(event("/again")).unwrap();
        let ok = verify(fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(ok.lines, 4);
    }

    #[test]
    fn two_writers_at_once_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = log(dir.path());
        let _held = AuditWriter::open(&path, "egress").unwrap();
        assert!(matches!(AuditWriter::open(&path, "egress"), Err(AuditError::Busy(_))));
    }

    #[test]
    fn an_unfinished_line_is_removed_and_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = log(dir.path());
        let mut text = fs::read(&path).unwrap();
        text.truncate(text.len() - 10);
        fs::write(&path, &text).unwrap();
        assert!(verify(fs::File::open(&path).unwrap()).is_err(), "a torn line is no valid log");
        drop(AuditWriter::open(&path, "egress").unwrap());
        let lines: Vec<String> = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(verify(fs::File::open(&path).unwrap()).unwrap().lines, 3);
        assert!(lines[2].contains("recovered"), "{}", lines[2]);
    }

    #[test]
    fn a_changed_last_line_stops_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = log(dir.path());
        let text = fs::read_to_string(&path).unwrap().replace("\"/2\"", "\"/9\"");
        fs::write(&path, text).unwrap();
        assert!(matches!(AuditWriter::open(&path, "egress"), Err(AuditError::Damaged(_))));
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let text = fs::read(log(dir.path())).unwrap();
        for at in 0..text.len() {
            let mut bad = text.clone();
            bad[at] ^= 1;
            assert!(verify(&bad[..]).is_err(), "byte {at} ({:?})", text[at] as char);
        }
    }

    #[test]
    fn a_removed_or_swapped_line_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(log(dir.path())).unwrap();
        let l: Vec<&str> = text.lines().collect();
        for order in [vec![1, 2], vec![0, 2], vec![0, 2, 1], vec![0, 0, 1]] {
            let bad: String = order.iter().map(|n| format!("{}\n", l[*n])).collect();
            assert!(verify(bad.as_bytes()).is_err(), "{order:?}");
        }
    }

    #[test]
    fn guest_text_cannot_break_or_flood_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let w = AuditWriter::open(&path, "egress").unwrap();
        w.append(event(&format!("/\n{{\"v\":1}}\u{1b}[2J\u{202e}{}", "x".repeat(100_000)))).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.len() < FIELD_CAP + 600 && !text.contains('\u{1b}') && !text.contains('\u{202e}'));
        assert_eq!(verify(text.as_bytes()).unwrap().lines, 1);
    }
}
