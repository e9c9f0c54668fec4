//! `bottle launch`: the main job.

use std::collections::BTreeMap;

use super::planning::PlanArgs;
use super::{block_on, preflight};
use crate::closure::Closure;
use crate::error::Result;
use crate::launch::Launch;
use crate::machine::{Qemu, Smolvm};
use crate::provider;
use crate::state::Roots;

/// Boot a bottle, run its agent, tear everything down.
///
/// The launch is shown first and has to be agreed to. Before the agent runs, the bottle proves from inside that it can
/// reach nothing but its own sidecars. The exit code is the agent's.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    plan: PlanArgs,
    /// Agree to the plan beforehand.
    #[arg(short, long)]
    yes: bool,
    /// No plan and no progress lines (needs --yes).
    #[arg(short, long, requires = "yes")]
    quiet: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let closure = Closure::load()?;
        let roots = Roots::from_environment()?;
        let mut plan = self.plan.plan(&closure, &BTreeMap::new())?;
        let mut given = self.plan.given();
        provider::supported(&plan)?;
        if !plan.questions.is_empty() {
            let answers = preflight::ask(&plan.questions)?;
            given.extend(answers.keys().cloned());
            plan = self.plan.plan(&closure, &answers)?;
        }
        super::cleanup::sweep(&roots);
        preflight::agree(&plan, &given, &roots.bottle(plan.slug.as_str())?, self.yes, self.quiet)?;
        let launch = Launch { roots: &roots, closure: &closure, given, quiet: self.quiet };
        if plan.engine.name == "smolvm" {
            let engine = Smolvm::new(&closure)?;
            block_on(launch.run(plan, &engine))
        } else {
            block_on(launch.run(plan, &Qemu::new(&closure)))
        }
    }
}
