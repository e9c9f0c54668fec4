//! `bottle stop`: tears a running bottle down.

use std::time::Duration;

use crate::error::Result;
use crate::launch;
use crate::state::Roots;

/// Longest time for a teardown, in which a large workspace may be saved.
const DEADLINE: Duration = Duration::from_secs(120);

/// Tear a running bottle down.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The bottles.
    #[arg(required = true)]
    names: Vec<String>,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let roots = Roots::from_environment()?;
        crate::host::runtime::block_on(async {
            for name in &self.names {
                launch::stop(&roots.bottle(name)?, DEADLINE).await?;
            }
            Ok(0)
        })
    }
}
