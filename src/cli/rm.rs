//! `bottle rm`: forgets a bottle.

use crate::error::Result;
use crate::state::Roots;

/// Forget a bottle that is not running (its audit log too).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not revoke deploy keys that it has left with a forge.
    #[arg(long)]
    forget_keys: bool,
    /// The bottles.
    #[arg(required = true)]
    names: Vec<String>,
    /// Even with changes that were not pulled.
    #[arg(long)]
    discard: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let roots = Roots::from_environment()?;
        for name in &self.names {
            let bottle = roots.bottle(name)?;
            super::launch::unpulled(&bottle, self.discard)?;
            // What it says of deploy keys is all that anybody knows of them.
            if !self.forget_keys {
                super::cleanup::revoke(&bottle)?;
            }
            bottle.remove()?;
        }
        Ok(0)
    }
}
