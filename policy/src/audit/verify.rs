//! Checking a log.

use std::io::{BufRead, BufReader, Read};

use super::{AuditRecord, GENESIS, line_hash, split_line};

/// A log that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Number of lines.
    pub lines: u64,
    /// Hash of the last line, 64 zeros when there is none; lines cut off the end show only against
    /// a kept copy.
    pub last_hash: String,
}

/// The first line that breaks the chain.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct AuditBroken {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Reads a log to its end.
///
/// # Errors
/// The first line that is not the next link: unreadable, unfinished, out of order or with another
/// hash.
pub fn verify(log: impl Read) -> Result<Verified, AuditBroken> {
    let mut log = BufReader::new(log);
    let mut done = Verified { lines: 0, last_hash: GENESIS.to_owned() };
    let mut line = Vec::new();
    loop {
        let number = done.lines + 1;
        let broken = |why: &str| AuditBroken { line: number, why: why.to_owned() };
        line.clear();
        match log.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(done),
            Ok(_) => {}
            Err(e) => return Err(broken(&e.to_string())),
        }
        if line.pop() != Some(b'\n') {
            return Err(broken("unfinished"));
        }
        let record: AuditRecord =
            serde_json::from_slice(&line).map_err(|_| broken("not an audit record"))?;
        let (body, hash) = split_line(&line).ok_or_else(|| broken("no hash at its end"))?;
        if record.v != 1 {
            return Err(broken("a format version this program does not know"));
        }
        if record.seq != number {
            return Err(broken("its sequence number is not the next"));
        }
        if record.prev != done.last_hash {
            return Err(broken("it does not follow the line before"));
        }
        if line_hash(&record.prev, body) != hash {
            return Err(broken("its text was changed"));
        }
        done = Verified { lines: number, last_hash: hash.to_owned() };
    }
}
