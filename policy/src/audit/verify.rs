//! Verifying a log.

use std::io::{BufRead, BufReader, Read};

use super::chain::{AuditRecord, GENESIS, line_hash, split_line};

/// Summary of an unbroken log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSummary {
    /// Number of lines.
    pub lines: u64,
    /// Hash of the last line; 64 zeros when the log is empty. Compare it with a copy kept elsewhere
    /// to find out whether lines were cut off the end.
    pub last_hash: String,
}

/// The first line that breaks the chain.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct ChainError {
    /// Line number, from 1.
    pub line: u64,
    /// What is wrong with the line.
    pub why: String,
}

/// Reads a log to its end.
///
/// # Errors
/// The first line that breaks the chain: unreadable, unfinished, out of order, or with a wrong
/// hash.
pub fn verify(log: impl Read) -> Result<AuditSummary, ChainError> {
    let mut log = BufReader::new(log);
    let mut summary = AuditSummary { lines: 0, last_hash: GENESIS.to_owned() };
    let mut line = Vec::new();
    loop {
        let number = summary.lines + 1;
        let broken = |why: &str| ChainError { line: number, why: why.to_owned() };
        line.clear();
        match log.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(summary),
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
        if record.prev != summary.last_hash {
            return Err(broken("it does not follow the line before"));
        }
        if line_hash(&record.prev, body) != hash {
            return Err(broken("its text was changed"));
        }
        summary = AuditSummary { lines: number, last_hash: hash.to_owned() };
    }
}
