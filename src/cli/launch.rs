//! `bottle launch`: the main job.

use std::collections::{BTreeMap, BTreeSet};

use super::plan_args::PlanArgs;
use super::preflight;
use crate::closure::Closure;
use crate::error::{Error, Kind, Result};
use crate::host::runtime::block_on;
use crate::host::stderr::say;
use crate::launch::Launch;
use crate::machine::{Qemu, Smolvm};
use crate::manifest::{EnvName, Provider, WorkspaceMode};
use crate::plan::LaunchPlan;
use crate::provider;
use crate::state::{BottleDir, Roots};
use crate::workspace::Snapshot;

/// Boot a bottle, run its agent, tear everything down.
///
/// The launch is shown first and has to be agreed to. Before the agent runs, the bottle proves from
/// inside that it can reach nothing but its own sidecars. The exit code is the agent's.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    how: How,
    /// Lose the work of this bottle's previous launch that was not pulled.
    #[arg(long)]
    discard: bool,
}

/// What `launch` and `resume` share.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Agree to the plan beforehand.
    #[arg(short, long)]
    yes: bool,
    /// No plan and no progress lines (needs --yes).
    #[arg(short, long, requires = "yes")]
    quiet: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        run(&self.plan, &self.how, self.discard, false)
    }
}

/// Plans, asks, launches.
pub(super) fn run(args: &PlanArgs, how: &How, discard: bool, resume: bool) -> Result<u8> {
    let mut closure = Closure::load()?;
    let roots = Roots::from_environment()?;
    let mut plan = args.plan(&closure, &BTreeMap::new())?;
    let mut given: BTreeSet<EnvName> = args.variables()?.into_keys().collect();
    provider::supported(&plan)?;
    provider::ready(&plan, &|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))?;
    let dir = roots.bottle(plan.slug.as_str())?;
    let workspace = if resume { None } else { workspace(&plan, &closure)? };
    if !resume {
        unpulled(&dir, discard)?;
    }
    if !plan.questions.is_empty() {
        let answers = preflight::ask(&plan.questions)?;
        given.extend(answers.keys().cloned());
        plan = args.plan(&closure, &answers)?;
    }
    super::cleanup::sweep(&roots);
    preflight::agree(&plan, &given, workspace.as_ref(), &dir, (how.yes, how.quiet))?;
    if !resume && dir.saved().exists() {
        let _ = std::fs::remove_file(dir.saved());
    }
    closure.realise(plan.image.name.as_str(), &plan.engine.name, &roots.images()?, how.quiet)?;
    let keep = matches!(plan.provider, Provider::Claude | Provider::Codex);
    let launch = Launch {
        roots: &roots,
        closure: &closure,
        given,
        workspace,
        resume,
        keep,
        quiet: how.quiet,
    };
    if plan.engine.name == "smolvm" {
        let engine = Smolvm::new(&closure)?;
        block_on(launch.run(plan, &engine))
    } else {
        block_on(launch.run(plan, &Qemu::new(&closure)))
    }
}

/// What of the project goes in.
fn workspace(plan: &LaunchPlan, closure: &Closure) -> Result<Option<Snapshot>> {
    let (WorkspaceMode::Copy, Some(path)) = (plan.workspace.mode, &plan.workspace.path) else {
        return Ok(None);
    };
    let home =
        std::env::var_os("HOME").map(std::path::PathBuf::from).and_then(|h| h.canonicalize().ok());
    if path.parent().is_none() || path.canonicalize().ok() == home {
        return Err(Error::new(
            Kind::Config,
            format!("the workspace would be {}, which is no project", path.display()),
        )
        .hint("cd into the project that the agent is to work on"));
    }
    let snapshot = Snapshot::of(&closure.tools.git.path, path)?;
    snapshot.fits(plan.resources.disk.get())?;
    Ok(Some(snapshot))
}

/// Refuses to lose work, unless that is asked for.
pub(super) fn unpulled(dir: &BottleDir, discard: bool) -> Result<()> {
    if !dir.work().exists() {
        return Ok(());
    }
    if discard {
        say(format_args!("bottle: what {} changed and nobody pulled is lost", dir.slug()));
        return std::fs::remove_file(dir.work()).map_err(|e| {
            Error::new(Kind::Config, format!("cannot remove {}: {e}", dir.work().display()))
        });
    }
    Err(Error::new(
        Kind::Usage,
        format!("bottle {:?} has changes that were not pulled", dir.slug()),
    )
    .hint(format!(
        "bottle diff {0}; bottle pull {0}; bottle resume {0}   # or --discard",
        dir.slug()
    )))
}
