//! `bottle launch`: boots a bottle and runs its agent.

use std::collections::BTreeSet;

use super::plan_args::{PlanArgs, plan_error};
use super::preflight::{self, LaunchFlags};
use super::unpulled::require_pulled;
use crate::closure::Closure;
use crate::credentials;
use crate::error::{Error, ErrorKind, Result};
use crate::host::runtime::block_on;
use crate::launch::Launch;
use crate::machine::{Qemu, Smolvm};
use crate::manifest::{EnvName, WorkspaceMode};
use crate::plan::LaunchPlan;
use crate::state::Roots;
use crate::workspace::Snapshot;

/// Boot a bottle, run its agent and tear everything down.
///
/// Shows what the launch will do and asks you to agree. Before the agent runs, the bottle proves
/// from inside that it can reach nothing but its own sidecars. The exit code is the agent's.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    flags: LaunchFlags,
    /// Delete the work of this bottle's previous launch that was not pulled.
    #[arg(long)]
    discard: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        run(&self.plan, &self.flags, self.discard, false)
    }
}

/// Plans, asks for agreement and launches.
pub(super) fn run(args: &PlanArgs, flags: &LaunchFlags, discard: bool, resume: bool) -> Result<u8> {
    let mut closure = Closure::load()?;
    let roots = Roots::from_environment()?;
    let mut plan = args.plan(&closure)?;
    let mut given: BTreeSet<EnvName> = args.variables()?.into_keys().collect();
    credentials::require(&plan, &|name| {
        std::env::var_os(name).is_some_and(|value| !value.is_empty())
    })?;
    let dir = roots.bottle(plan.slug.as_str())?;
    let workspace = if resume { None } else { workspace(&plan, &closure)? };
    if !resume {
        require_pulled(&dir, discard)?;
    }
    if !plan.questions.is_empty() {
        let answers = preflight::ask(&plan.questions)?;
        given.extend(answers.keys().cloned());
        plan = plan.with_answers(answers).map_err(plan_error)?;
    }
    super::cleanup::sweep(&roots);
    preflight::agree(&plan, &given, workspace.as_ref(), &dir, flags)?;
    if !resume && dir.resumable_disk().exists() {
        let _ = std::fs::remove_file(dir.resumable_disk());
    }
    closure.realise(plan.image.name.as_str(), &plan.engine.name, &roots.images()?, flags.quiet)?;
    let keep = plan.provider.resumable;
    let launch = Launch {
        roots: &roots,
        closure: &closure,
        given,
        workspace,
        resume,
        keep,
        quiet: flags.quiet,
    };
    if plan.engine.name == "smolvm" {
        let engine = Smolvm::new(&closure)?;
        block_on(launch.run(plan, &engine))
    } else {
        block_on(launch.run(plan, &Qemu::new(&closure)))
    }
}

/// Takes the snapshot of the project that is copied into the bottle, if any.
fn workspace(plan: &LaunchPlan, closure: &Closure) -> Result<Option<Snapshot>> {
    let (WorkspaceMode::Copy, Some(path)) = (plan.workspace.mode, &plan.workspace.path) else {
        return Ok(None);
    };
    let home =
        std::env::var_os("HOME").map(std::path::PathBuf::from).and_then(|h| h.canonicalize().ok());
    if path.parent().is_none() || path.canonicalize().ok() == home {
        return Err(Error::new(
            ErrorKind::Config,
            format!("the workspace would be {}, which is no project", path.display()),
        )
        .hint("cd into the project that the agent is to work on"));
    }
    let snapshot = Snapshot::of(&closure.tools.git.path, path)?;
    snapshot.fits(plan.resources.disk.get())?;
    Ok(Some(snapshot))
}
