//! `bottle dashboard`: bottles, proposals and the audit log on one screen.

use std::io::IsTerminal;

use crate::dashboard::tui;
use crate::error::{Error, ErrorKind, Result};
use crate::state::Roots;

/// Show bottles, what their agents ask for and what they do, on one screen; decide with single
/// keys.
///
/// The bottom line shows the keys; ? shows all of them. Works with NO_COLOR, without Unicode, and
/// on 80x24.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

impl Args {
    #[allow(clippy::unused_self, reason = "every command is called alike")]
    pub(super) fn run(&self) -> Result<u8> {
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return Err(Error::new(ErrorKind::Usage, "the dashboard needs a terminal")
                .hint("bottle proposals; bottle list; bottle logs NAME"));
        }
        tui::run(Roots::from_environment()?)?;
        Ok(0)
    }
}
