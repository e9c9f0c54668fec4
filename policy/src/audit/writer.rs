//! Appending to the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};
use time::OffsetDateTime;
use time::macros::format_description;

use super::bounds::{Bounds, Refusals};
use super::chain::{AuditRecord, GENESIS, line_hash, split_line};
use super::event::{AuditEvent, AuditVerdict};

/// More than the longest line that any version of the writer made: 8 fields of 1024 characters,
/// each up to 10 bytes when escaped.
const MAX_LINE_BYTES: u64 = 256 * 1024;

/// Why a log cannot be opened or continued.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// An I/O error.
    #[error("audit log {path}: {source}")]
    Io {
        /// The log.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Another process has it open for writing. Two writers would fork the chain.
    #[error("audit log {0} is in use by another process")]
    Busy(PathBuf),
    /// Its last line is complete but does not belong to a chain.
    #[error(
        "audit log {0}: its last line was changed; keep the file as evidence, move it away and start again"
    )]
    Damaged(PathBuf),
    /// This run has used up its bytes.
    #[error("audit log {path}: the {bytes} bytes for this run are spent")]
    Spent {
        /// The log.
        path: PathBuf,
        /// [`Bounds::bytes`].
        bytes: u64,
    },
    /// An earlier write failed or used up the bytes, so no more lines are accepted.
    #[error("audit log {0}: it takes no more lines")]
    Closed(PathBuf),
}

/// Role of a line in the life of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Announces an action. The action must not happen if this line cannot be written.
    Opening,
    /// Ends what an opening line announced. It is written even when the bytes are used up.
    Closing,
    /// A refusal. It may be counted instead of written; see [`Bounds`].
    Refusal,
}

/// The one writer of a log: appends lines, each with a single write(2), and continues the chain of
/// an existing file.
#[derive(Debug)]
pub struct AuditWriter {
    path: PathBuf,
    daemon: String,
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Flock<File>,
    seq: u64,
    prev: String,
    left: u64,
    refusals: Refusals,
    /// A write failed.
    failed: bool,
    /// The bytes are used up.
    spent: bool,
}

impl AuditWriter {
    /// Opens `path` for appending (mode 0600), locks it against other writers and reads its last
    /// line.
    ///
    /// An unfinished last line (the machine stopped in the middle of a write) is removed, and a
    /// line `recovered` by `daemon` says how many bytes it had.
    ///
    /// # Errors
    /// [`AuditError::Io`], [`AuditError::Busy`] or [`AuditError::Damaged`].
    pub fn open(path: &Path, daemon: &str) -> Result<Self, AuditError> {
        Self::with_bounds(path, daemon, Bounds::default())
    }

    /// As [`AuditWriter::open`], with other bounds than the default.
    ///
    /// # Errors
    /// As [`AuditWriter::open`].
    pub fn with_bounds(path: &Path, daemon: &str, bounds: Bounds) -> Result<Self, AuditError> {
        let io = |source| AuditError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(
            |(_, errno)| match errno {
                nix::errno::Errno::EWOULDBLOCK => AuditError::Busy(path.to_owned()),
                other => io(other.into()),
            },
        )?;
        let (last, torn) = tail(&mut file).map_err(io)?;
        let (seq, prev) = match last {
            None => (0, GENESIS.to_owned()),
            Some(line) => link(&line).ok_or_else(|| AuditError::Damaged(path.to_owned()))?,
        };
        if torn > 0 {
            let len = file.metadata().map_err(io)?.len();
            file.set_len(len - torn).map_err(io)?;
        }
        let refusals = Refusals::new(&bounds, Instant::now());
        let state =
            State { file, seq, prev, left: bounds.bytes, refusals, failed: false, spent: false };
        let writer = Self {
            path: path.to_owned(),
            daemon: daemon.to_owned(),
            bounds,
            state: Mutex::new(state),
        };
        if torn > 0 {
            let mut event = AuditEvent::new(daemon, "recovered", AuditVerdict::Allow);
            event.reason = Some(format!("{torn} bytes of an unfinished line were removed"));
            writer.append(Line::Opening, event)?;
        }
        Ok(writer)
    }

    /// Appends one line and returns its `seq`, or `None` for a refusal that was only counted.
    ///
    /// # Errors
    /// [`AuditError::Io`] when the write fails, [`AuditError::Spent`] when the line would exceed
    /// the bytes of this run. From then on every call fails with [`AuditError::Closed`] (after
    /// `Spent`, closing lines are still written), because a daemon must let nothing through that it
    /// cannot record.
    pub fn append(&self, line: Line, event: AuditEvent) -> Result<Option<u64>, AuditError> {
        let mut state = self.lock();
        if state.failed || (state.spent && line != Line::Closing) {
            return Err(AuditError::Closed(self.path.clone()));
        }
        let now = Instant::now();
        let written = line != Line::Refusal || state.refusals.take(&self.bounds, now);
        if line != Line::Closing {
            self.count_suppressed(&mut state, now, false)?;
        }
        if written { self.write(&mut state, line, event).map(Some) } else { Ok(None) }
    }

    /// Writes the count of suppressed refusals, if there are any. Call it when the daemon ends.
    ///
    /// # Errors
    /// As [`AuditWriter::append`].
    pub fn finish(&self) -> Result<(), AuditError> {
        let mut state = self.lock();
        if state.failed { Ok(()) } else { self.count_suppressed(&mut state, Instant::now(), true) }
    }

    /// Whether the writer accepts no more lines: a write failed, or the bytes are used up.
    #[must_use]
    pub fn closed(&self) -> bool {
        let state = self.lock();
        state.failed || state.spent
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Only running out of memory can panic while the lock is held, and the state stays valid
        // even then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_suppressed(
        &self,
        state: &mut State,
        now: Instant,
        immediately: bool,
    ) -> Result<(), AuditError> {
        let Some(n) = state.refusals.due(now, immediately) else { return Ok(()) };
        let mut event = AuditEvent::new(&self.daemon, "suppressed", AuditVerdict::Deny);
        event.reason = Some(format!("{n} refusals not written"));
        // At most one a second, so it is written even when the bytes are used up.
        self.write(state, Line::Closing, event).map(drop)
    }

    fn write(&self, state: &mut State, line: Line, event: AuditEvent) -> Result<u64, AuditError> {
        let (text, hash) = self.link(state, event)?;
        match state.left.checked_sub(text.len() as u64) {
            Some(left) => state.left = left,
            None if line == Line::Closing => state.left = 0,
            None => {
                state.spent = true;
                let bytes = self.bounds.bytes;
                let mut event = AuditEvent::new(&self.daemon, "spent", AuditVerdict::Deny);
                event.reason = Some(format!(
                    "budget spent: {bytes} bytes for this run; nothing more is let through"
                ));
                let (text, hash) = self.link(state, event)?;
                self.put(state, &text, hash)?;
                return Err(AuditError::Spent { path: self.path.clone(), bytes });
            }
        }
        self.put(state, &text, hash)
    }

    /// The next line of the chain, and its hash.
    fn link(&self, state: &State, event: AuditEvent) -> Result<(Vec<u8>, String), AuditError> {
        let record = AuditRecord {
            v: 1,
            seq: state.seq + 1,
            time: now(),
            what: event.cleaned(),
            prev: state.prev.clone(),
            hash: String::new(),
        };
        let mut text = serde_json::to_vec(&record).map_err(|e| self.io(e.into()))?;
        text.pop(); // the closing brace
        let hash = line_hash(&record.prev, &text);
        text.extend_from_slice(format!(",\"hash\":\"{hash}\"}}\n").as_bytes());
        Ok((text, hash))
    }

    fn put(&self, state: &mut State, text: &[u8], hash: String) -> Result<u64, AuditError> {
        let wrote = match state.file.write(text) {
            Ok(n) if n == text.len() => Ok(()),
            Ok(_) => Err(io::Error::new(io::ErrorKind::WriteZero, "the disk is full")),
            Err(e) => Err(e),
        };
        if let Err(e) = wrote {
            state.failed = true;
            return Err(self.io(e));
        }
        state.seq += 1;
        state.prev = hash;
        Ok(state.seq)
    }

    fn io(&self, source: io::Error) -> AuditError {
        AuditError::Io { path: self.path.clone(), source }
    }
}

/// The last complete line, if any, and the number of bytes after the last newline.
fn tail(file: &mut File) -> io::Result<(Option<Vec<u8>>, u64)> {
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(2 * MAX_LINE_BYTES)))?;
    let mut end = Vec::new();
    file.take(len.min(2 * MAX_LINE_BYTES)).read_to_end(&mut end)?;
    let Some(newline) = end.iter().rposition(|b| *b == b'\n') else {
        return Ok((None, end.len() as u64));
    };
    let torn = (end.len() - newline - 1) as u64;
    let start = end[..newline].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    Ok((Some(end[start..newline].to_vec()), torn))
}

/// Sequence number and hash of a line, if it is valid.
fn link(line: &[u8]) -> Option<(u64, String)> {
    let record: AuditRecord = serde_json::from_slice(line).ok()?;
    let (body, hash) = split_line(line)?;
    (line_hash(&record.prev, body) == hash).then(|| (record.seq, hash.to_owned()))
}

fn now() -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(&format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::event::MAX_FIELD_CHARS;
    use super::super::verify::verify;
    use super::*;
    use std::fs;

    fn event(path: &str) -> AuditEvent {
        AuditEvent {
            path: Some(path.to_owned()),
            ..AuditEvent::new("egress", "request", AuditVerdict::Allow)
        }
    }

    fn log(dir: &Path) -> PathBuf {
        let path = dir.join("audit.jsonl");
        let w = AuditWriter::open(&path, "egress").unwrap();
        for n in 0..3 {
            w.append(Line::Opening, event(&format!("/{n}"))).unwrap();
        }
        path
    }

    #[test]
    fn a_second_writer_continues_the_chain() {
        let dir = tempfile::tempdir().unwrap();
        let path = log(dir.path());
        AuditWriter::open(&path, "egress").unwrap().append(Line::Opening, event("/again")).unwrap();
        let ok = verify(fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(ok.lines, 4);
    }

    #[test]
    fn two_writers_immediately_are_refused() {
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
        let lines: Vec<String> =
            fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
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
            let bad = order.iter().map(|n| format!("{}\n", l[*n])).collect::<Vec<_>>().concat();
            assert!(verify(bad.as_bytes()).is_err(), "{order:?}");
        }
    }

    #[test]
    fn guest_text_cannot_break_or_flood_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let w = AuditWriter::open(&path, "egress").unwrap();
        w.append(
            Line::Opening,
            event(&format!("/\n{{\"v\":1}}\u{1b}[2J\u{202e}{}", "x".repeat(100_000))),
        )
        .unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(
            text.len() < MAX_FIELD_CHARS + 450
                && !text.contains('\u{1b}')
                && !text.contains('\u{202e}')
        );
        assert_eq!(verify(text.as_bytes()).unwrap().lines, 1);
    }

    fn reasons(path: &Path) -> Vec<(String, String)> {
        let text = fs::read_to_string(path).unwrap();
        verify(text.as_bytes()).unwrap();
        let records = text.lines().map(|l| serde_json::from_str::<AuditRecord>(l).unwrap().what);
        records.map(|e| (e.event, e.reason.unwrap_or_default())).collect()
    }

    #[test]
    fn refusals_that_come_too_fast_are_counted_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let bounds = Bounds { refusals_per_second: 1, refusal_burst: 10, ..Bounds::default() };
        let w = AuditWriter::with_bounds(&path, "egress", bounds).unwrap();
        let refused = || AuditEvent::new("egress", "refused", AuditVerdict::Deny);
        let written =
            (0..1000).filter(|_| w.append(Line::Refusal, refused()).unwrap().is_some()).count();
        assert!((10..15).contains(&written), "{written}");
        w.append(Line::Opening, event("/")).unwrap();
        w.finish().unwrap();
        let lines = reasons(&path);
        assert!(lines.len() < 30 && lines.iter().any(|(event, _)| event == "request"), "{lines:?}");
        let told = lines
            .iter()
            .filter_map(|(_, r)| r.strip_suffix(" refusals not written")?.parse::<usize>().ok());
        assert_eq!(told.sum::<usize>(), 1000 - written, "none is forgotten");
        w.finish().unwrap();
        assert_eq!(reasons(&path).len(), lines.len(), "and none is told twice");
    }

    #[test]
    fn a_run_that_has_spent_its_bytes_says_so_once_and_takes_only_closing_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let bounds = Bounds { bytes: 10_000, ..Bounds::default() };
        let w = AuditWriter::with_bounds(&path, "egress", bounds.clone()).unwrap();
        let spent = (0..1000).find_map(|_| w.append(Line::Opening, event("/")).err()).unwrap();
        assert!(matches!(spent, AuditError::Spent { bytes: 10_000, .. }) && w.closed());
        assert!(matches!(w.append(Line::Refusal, event("/")), Err(AuditError::Closed(_))));
        assert!(matches!(w.append(Line::Opening, event("/")), Err(AuditError::Closed(_))));
        w.append(Line::Closing, event("/end")).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 11_000);
        assert_eq!(reasons(&path).iter().filter(|(event, _)| event == "spent").count(), 1);
        drop(w);
        let next = AuditWriter::with_bounds(&path, "egress", bounds).unwrap();
        next.append(Line::Opening, event("/")).unwrap();
        assert!(!next.closed(), "the next run has bytes of its own");
    }

    #[test]
    fn the_default_bounds_are_a_quarter_gigabyte_and_200_refusals_a_second() {
        assert_eq!(
            Bounds::default(),
            Bounds { bytes: 268_435_456, refusals_per_second: 200, refusal_burst: 1000 }
        );
    }
}
