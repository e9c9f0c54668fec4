//! `bottle completions`: prints completions for a shell.

use clap_complete::Shell;

use crate::error::Result;

/// Print shell completions.
///
/// For example: bottle completions bash > ~/.local/share/bash-completion/completions/bottle
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the shell.
    shell: Shell,
}

impl Args {
    pub(super) fn run(&self, cli: &mut clap::Command) -> Result<u8> {
        clap_complete::generate(self.shell, cli, "bottle", &mut std::io::stdout());
        Ok(0)
    }
}
