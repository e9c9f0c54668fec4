//! `bottle reload`: another policy for a running bottle.

use std::path::{Path, PathBuf};

use super::planning;
use crate::error::{Context, Error, Kind, Result};
use crate::launch::InForce;
use crate::manifest::{self, Manifest, find};
use crate::plan::{LaunchPlan, diff, not_reloadable, replan};
use crate::say::say;
use crate::state::Roots;

/// Read a running bottle's manifest again and put its new routes in force.
///
/// Only routes can change while a bottle runs, and they can use only the tokens that it was launched with. Anything else
/// that the manifest says differently is named, and nothing is done. Connections that a new policy still allows go on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The bottle.
    name: String,
    /// Read this manifest instead of the one that the bottle was launched from.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let dir = Roots::from_environment()?.bottle(&self.name)?;
        let in_force = InForce::read(&dir)?;
        let what = || format!("cannot read {}", dir.plan().display());
        let running = std::fs::read(dir.plan()).context(Kind::Config, what)?;
        let mut running: LaunchPlan = serde_json::from_slice(&running).context(Kind::Config, what)?;
        let manifest = self.manifest(&running)?;
        let new = replan(&running, &manifest, &|name| std::env::var(name).ok()).map_err(planning::plan_error)?;
        let others = not_reloadable(&running, &new);
        if !others.is_empty() {
            let message = format!("more than routes changed since {:?} was launched:\n{}", self.name, others.join("\n"));
            return Err(Error::new(Kind::Config, message).hint(format!("bottle stop {}, and launch it again", self.name)));
        }
        let mut policy = new.policy.clone();
        in_force.complete(&running, &mut policy);
        if policy == *in_force.policy() {
            say(format_args!("bottle: {}: nothing changed", self.name));
            return Ok(0);
        }
        running.policy = in_force.policy().clone();
        running.tokens.clone_from(&new.redacted().tokens);
        diff(&running, &LaunchPlan { policy: policy.clone(), ..new.redacted() }).iter().for_each(say);
        in_force.replace(&policy)?;
        say(format_args!("bottle: {}: policy {} is in force", self.name, policy.digest()));
        Ok(0)
    }

    /// The manifest as it is now. One that was found at launch must still be this user's (or root's).
    fn manifest(&self, running: &LaunchPlan) -> Result<Manifest> {
        let gone = |path: &Path| {
            Error::new(Kind::Config, format!("{} is not there any more", path.display())).hint("name another: --manifest FILE")
        };
        let search = match (&self.manifest, &running.manifest) {
            (Some(named), _) => planning::search(planning::here()?, Some(named.clone())),
            (None, None) => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("bottle {:?} runs a built-in agent: there is no manifest to read again", self.name),
                ));
            }
            (None, Some(file)) => {
                let start = file.parent().ok_or_else(|| gone(file))?.to_owned();
                if file.file_name().is_some_and(|name| name == manifest::FILE_NAME) {
                    let search = planning::search(start, None);
                    if find(&search.start, search.home.as_deref()).as_deref() != Some(file) {
                        return Err(gone(file));
                    }
                    search
                } else {
                    planning::search(start, Some(file.clone()))
                }
            }
        };
        manifest::load(&search).map_err(|e| Error::new(Kind::Config, e.to_string()))
    }
}
