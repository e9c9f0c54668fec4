//! Lines for the operator on standard error. A closed standard error is no reason to stop a
//! teardown.

use std::io::{IsTerminal, Write};

/// Writes one line to standard error; does nothing when that is closed.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes without a line end, and flushes.
pub fn prompt(text: impl std::fmt::Display) {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

/// Writes one line while an agent may have the terminal in raw mode, where a line end alone does
/// not go back to column 1.
pub fn interject(line: &str) {
    let mut stderr = std::io::stderr();
    let _ = if stderr.is_terminal() {
        write!(stderr, "\r\n{line}\r\n")
    } else {
        writeln!(stderr, "{line}")
    };
}
