//! What a launch is made of, shared by bring-up and teardown.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::clock::ClockKeeper;
use super::control::RunningGuest;
use super::demo_upstream::DemoUpstream;
use super::endpoints::Splices;
use super::progress::Progress;
use crate::bundle::Bundle;
use crate::closure::Closure;
use crate::credentials::refresh::Refresher;
use crate::live_policy::PolicySwitch;
use crate::machine::Running;
use crate::plan::LaunchPlan;
use crate::state::{BottleDir, Journal, Metadata, Roots};
use crate::supervise::ProposalBroker;
use crate::values::EnvName;
use crate::workspace::{Baseline, Snapshot};

/// What a launch needs besides its plan.
pub struct Launch<'a> {
    /// Where bottles live.
    pub roots: &'a Roots,
    /// The store paths that bottles are made of.
    pub closure: &'a Closure,
    /// Guest variables that the operator gave for this launch. Their values stay out of every file.
    pub given: BTreeSet<EnvName>,
    /// The copy of the project that the guest gets.
    pub workspace: Option<Snapshot>,
    /// Resume from the disk of the launch before, which must be there.
    pub resume: bool,
    /// Keep the disk at an orderly end, for `bottle resume`.
    pub keep: bool,
    /// Print no progress lines.
    pub quiet: bool,
}

/// What runs as long as the bottle does; teardown ends it.
#[derive(Default)]
pub(super) struct Components {
    pub(super) upstream: Option<DemoUpstream>,
    pub(super) bundle: Option<Bundle>,
    pub(super) machine: Option<Running>,
    pub(super) splices: Option<Splices>,
    pub(super) clock: Option<ClockKeeper>,
    pub(super) refresher: Option<Refresher>,
    pub(super) broker: Option<ProposalBroker>,
}

/// One launch, from its journal's first entry to its teardown.
pub(super) struct LaunchState<'a> {
    pub(super) launch: &'a Launch<'a>,
    pub(super) plan: Arc<LaunchPlan>,
    pub(super) dir: BottleDir,
    pub(super) metadata: Metadata,
    pub(super) journal: Journal,
    pub(super) progress: Progress,
    pub(super) components: Components,
    pub(super) policies: Arc<PolicySwitch>,
    /// Tells the control socket that the guest runs.
    pub(super) running_guest: watch::Sender<Option<RunningGuest>>,
    /// Whether the agent has its workspace, and so may have work to save.
    pub(super) has_workspace: bool,
    /// The workspace as the guest got it.
    pub(super) baseline: Option<Baseline>,
}

/// Unwinds the journal when a panic skips the orderly teardown.
pub(super) struct UnwindOnPanic(pub(super) camino::Utf8PathBuf);

impl Drop for UnwindOnPanic {
    fn drop(&mut self) {
        if self.0.exists() {
            let _ = Journal::unwind(&self.0);
        }
    }
}
