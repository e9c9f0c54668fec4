//! `bottle stop`: tears down a running bottle.

use crate::error::Result;
use crate::launch;
use crate::state::Roots;

/// Tear down a running bottle.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names of the bottles.
    #[arg(required = true)]
    names: Vec<String>,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let roots = Roots::from_environment()?;
        crate::host::runtime::block_on(async {
            for name in &self.names {
                launch::stop(&roots.bottle(name)?, launch::STOP_DEADLINE).await?;
            }
            Ok(0)
        })
    }
}
