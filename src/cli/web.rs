//! `bottle web`: serves the dashboard to a browser on this machine.

use crate::dashboard::web;
use crate::error::Result;
use crate::host::runtime::block_on;
use crate::state::Roots;

/// Serve the dashboard to a browser on this machine.
///
/// Prints a URL that works once. Open it in the browser you want to decide with; run the command
/// again for a new URL.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Listen on this port of 127.0.0.1 (default: a free one).
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        block_on(web::serve(Roots::from_environment()?, self.port))?;
        Ok(0)
    }
}
