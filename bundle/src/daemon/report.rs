//! Lines on standard output, which the orchestrator reads.

use std::io::{self, Write as _};

use serde::Serialize;

/// Writes `line`, which must not contain a newline, and flushes it.
///
/// # Errors
/// Standard output is closed or broken.
pub fn line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Writes `report` as one line of JSON.
///
/// # Errors
/// As [`line`].
pub fn json(report: &impl Serialize) -> io::Result<()> {
    line(&serde_json::to_string(report)?)
}

/// Tells the orchestrator that the daemon listens.
///
/// # Errors
/// Standard output is closed or broken.
pub fn ready() -> io::Result<()> {
    line("ready")
}
