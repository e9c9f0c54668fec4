//! `bottle resume`: goes on with a bottle that was stopped.

use super::launch::{self, How};
use super::plan_args::PlanArgs;
use crate::error::{Error, Kind, Result};
use crate::manifest::EnvName;
use crate::plan::LaunchPlan;
use crate::state::Roots;

/// Go on with a stopped bottle: its machine's disk, its workspace and the agent's own conversation.
///
/// The plan is made anew from the manifest, credentials are read again, and the bottle proves again
/// that it is shut in.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The bottle.
    name: String,
    #[command(flatten)]
    how: How,
    /// Set a variable in the guest, or answer a question of the manifest; what was given at launch
    /// is not remembered.
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::plan_args::parse_env)]
    env: Vec<(EnvName, String)>,
    /// Run this instead of the agent's own command.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let dir = Roots::from_environment()?.bottle(&self.name)?;
        if !dir.saved().exists() {
            return Err(Error::new(
                Kind::Usage,
                format!("bottle {:?} cannot be resumed: there is no disk of it", self.name),
            )
            .hint(format!("bottle list; bottle launch {}", self.name)));
        }
        let what = || {
            Error::new(Kind::Config, format!("the plan of {:?} cannot be read", self.name))
                .hint(format!("bottle rm {}", self.name))
        };
        let plan: LaunchPlan =
            serde_json::from_slice(&std::fs::read(dir.plan()).map_err(|_| what())?)
                .map_err(|_| what())?;
        let args = PlanArgs::of_resumed(&plan, &self.env, &self.command);
        launch::run(&args, &self.how, false, true)
    }
}
