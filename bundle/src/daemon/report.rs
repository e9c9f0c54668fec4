//! Lines on standard output, which the orchestrator reads.

use std::io::{self, Write as _};

/// Writes `line`, which must not contain a newline, and flushes it.
///
/// # Errors
/// Standard output is closed or broken.
pub fn line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Tells the orchestrator that the daemon listens.
///
/// # Errors
/// Standard output is closed or broken.
pub fn ready() -> io::Result<()> {
    line("ready")
}
