//! `bottle rm`: deletes a bottle.

use crate::error::Result;
use crate::state::Roots;

/// Delete a bottle that is not running, with its audit log.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not revoke the deploy keys that it left with a forge.
    #[arg(long)]
    forget_keys: bool,
    /// Names of the bottles.
    #[arg(required = true)]
    names: Vec<String>,
    /// Delete the bottle even if it has changes that were not pulled.
    #[arg(long)]
    discard: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let roots = Roots::from_environment()?;
        for name in &self.names {
            let bottle = roots.bottle(name)?;
            super::unpulled::require_pulled(&bottle, self.discard)?;
            // The bottle's files are the only record of these deploy keys.
            if !self.forget_keys {
                super::cleanup::revoke(&bottle)?;
            }
            bottle.remove()?;
        }
        Ok(0)
    }
}
