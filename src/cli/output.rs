//! What every command prints and asks in the same way: errors, colours, tables, JSON, questions.

use std::io::{BufRead, IsTerminal};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::stderr::{note, prompt};
use crate::values::neutral;

/// Tells the operator what failed, why, and what to do next; returns the exit code.
#[must_use]
pub fn report(error: &anyhow::Error) -> u8 {
    let colour = use_colour(&std::io::stderr());
    let (red, dim, plain) =
        if colour { ("\x1b[1;31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    // Messages may quote what a guest or a file contains.
    let clean = |text: &str| text.lines().map(neutral).collect::<Vec<_>>().join("\n");
    note(format_args!("{red}bottle: {plain}{}", clean(&format!("{error:#}"))));
    let Some(error) = error.downcast_ref::<Error>() else { return ErrorKind::Internal.exit_code() };
    for hint in error.hints() {
        note(format_args!("{dim}  hint: {}{plain}", clean(hint)));
    }
    error.kind().exit_code()
}

/// True on a terminal, unless NO_COLOR is set.
pub(super) fn use_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Prints `value` as one JSON document.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value)
        .context(ErrorKind::Internal, || "cannot write JSON".into())?;
    println!("{json}");
    Ok(())
}

/// Aligns `rows` in columns that are as wide as their widest cell, two spaces apart. The last
/// column is not padded.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Asks `question` and returns the line that is typed, without surrounding space.
///
/// # Errors
/// `Declined` when standard input cannot be read.
pub(super) fn ask_line(question: &str) -> Result<String> {
    prompt(format_args!("{question} "));
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .context(ErrorKind::Declined, || "cannot read the answer".into())?;
    Ok(answer.trim().to_owned())
}

/// Asks a question to which anything but `y` and `yes` means no.
///
/// # Errors
/// As [`ask_line`].
pub(super) fn confirm(question: &str) -> Result<bool> {
    let answer = ask_line(&format!("{question} [y/N]"))?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks on the terminal without showing what is typed: the answer may be a secret.
///
/// # Errors
/// `Internal` when the terminal cannot be used.
pub(super) fn ask_hidden(question: &str) -> Result<String> {
    prompt(format_args!("{question}: "));
    rpassword::read_password().context(ErrorKind::Internal, || "cannot read the answer".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let rows = [row("NAME", "AGE"), row("a-long-name", "3s"), row("ü", "")];
        assert_eq!(columns(&rows), ["NAME         AGE", "a-long-name  3s", "ü"]);
    }
}
