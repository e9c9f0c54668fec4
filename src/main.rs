//! Parse, dispatch, exit code; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    let ran = bottle::cli::run().map_err(anyhow::Error::from);
    ExitCode::from(ran.unwrap_or_else(|error| bottle::cli::report(&error)))
}
