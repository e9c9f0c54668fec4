//! `bottle exec`: a command in a running bottle.

use crate::error::Result;
use crate::host::terminal::{interactive, size};
use crate::launch::{Request, attach, connect};
use crate::state::Roots;

/// Run a command in a running bottle, as the agent's user and in its environment.
///
/// The exit code is the command's: 127 when there is no such command, 126 when it cannot run, 128+n
/// when signal n killed it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The bottle.
    name: String,
    /// As the guest's root.
    #[arg(long)]
    root: bool,
    /// Working directory in the guest.
    #[arg(short = 'C', long, value_name = "DIR")]
    directory: Option<String>,
    /// No terminal, even when there is one here.
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// Program and arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let dir = Roots::from_environment()?.bottle(&self.name)?;
        let tty = interactive() && !self.no_tty;
        let term = std::env::var("TERM").ok().filter(|_| tty);
        let request = Request::Exec {
            argv: self.command.clone(),
            tty: tty.then(size),
            term,
            stdin: true,
            cwd: self.directory.clone(),
            root: self.root,
        };
        crate::host::runtime::block_on(async {
            attach(connect(&dir, &request).await?, tty, true, &[]).await
        })
    }
}
