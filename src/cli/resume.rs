//! `bottle resume`: continues a bottle that was stopped.

use super::launch;
use super::plan_args::PlanArgs;
use super::preflight::LaunchFlags;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::EnvName;
use crate::plan::LaunchPlan;
use crate::state::Roots;

/// Continue a stopped bottle with its disk, its workspace and its agent's conversation.
///
/// Reads the manifest and the credentials again, and the bottle proves again that it can reach
/// nothing but its own sidecars.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the bottle.
    name: String,
    #[command(flatten)]
    flags: LaunchFlags,
    /// Set a variable in the guest, or answer a question of the manifest (values given at launch
    /// are not remembered).
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::plan_args::parse_env)]
    env: Vec<(EnvName, String)>,
    /// Run this command instead of the agent's own.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let dir = Roots::from_environment()?.bottle(&self.name)?;
        if !dir.resumable_disk().exists() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("bottle {:?} cannot be resumed: it left no disk", self.name),
            )
            .hint(format!("bottle list; bottle launch {}", self.name)));
        }
        let what = || {
            Error::new(ErrorKind::Config, format!("the plan of {:?} cannot be read", self.name))
                .hint(format!("bottle rm {}", self.name))
        };
        let plan: LaunchPlan =
            serde_json::from_slice(&std::fs::read(dir.plan()).map_err(|_| what())?)
                .map_err(|_| what())?;
        let args = PlanArgs::of_resumed(&plan, &self.env, &self.command);
        launch::run(&args, &self.flags, false, true)
    }
}
