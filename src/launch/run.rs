//! A launch from its checks to its exit code.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::progress::Progress;
use super::signals::Signals;
use super::state::{Components, Launch, LaunchState, UnwindOnPanic};
use crate::credentials::{deploy_key, git};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::live_policy::{LivePolicies, PolicySwitch};
use crate::machine::Engine;
use crate::plan::LaunchPlan;
use crate::provision::skills;
use crate::state::{Journal, Metadata};

impl Launch<'_> {
    /// Brings the bottle up, runs the agent, tears everything down; returns the agent's exit code.
    ///
    /// # Errors
    /// Every failure comes after a full unwind. `SelfTest` when the bottle was not shut in;
    /// `Signal` when one ended it.
    pub async fn run<E: Engine>(&self, plan: LaunchPlan, engine: &E) -> Result<u8> {
        keep_memory_private()?;
        let policies = LivePolicies { routes: plan.policy.clone(), git: git::policy(&plan)? };
        let skills = skills::pack(&plan)?;
        self.closure.verify(
            self.closure.image(plan.image.name.as_str())?,
            engine.name(),
            &self.roots.verified(),
        )?;
        let dir = self.roots.bottle(plan.slug.as_str())?;
        let _lock = dir.lock()?;
        // Before the old journal is unwound, which may fail: the keys must be revoked anyway.
        deploy_key::revoke_left(&dir).await;
        if dir.journal().exists() {
            Journal::unwind(&dir.journal())?;
        }
        dir.require_space()?;
        // Signals are caught from here on, so that every interruption is unwound.
        let mut signals = Signals::catch()?;
        let stop = Arc::new(Notify::new());
        let (running_guest, guest) = watch::channel(None);
        let _unwind = UnwindOnPanic(dir.journal());
        let mut state = LaunchState {
            launch: self,
            metadata: Metadata::starting(
                &dir,
                plan.agent.as_str(),
                engine.name(),
                &plan.policy_digest,
            ),
            journal: Journal::begin(dir.journal())?,
            plan: Arc::new(plan),
            progress: Progress::new(self.quiet),
            components: Components::default(),
            policies: Arc::new(PolicySwitch::new(&dir)),
            dir,
            running_guest,
            has_workspace: false,
            baseline: None,
        };
        let outcome = tokio::select! {
            ran = state.bring_up(engine, policies, skills, (guest, Arc::clone(&stop))) => ran,
            signal = signals.next() => {
                Err(Error::new(ErrorKind::Signal(signal), format!("ended by signal {signal}")))
            }
            () = stop.notified() => {
                Err(Error::new(ErrorKind::Signal(nix::libc::SIGTERM), "stopped by `bottle stop`"))
            }
        };
        state.tear_down(outcome).await
    }
}

/// Forbids core dumps and debuggers: token values pass through this process.
fn keep_memory_private() -> Result<()> {
    let what = || "cannot keep this process's memory private".to_owned();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
        .context(ErrorKind::Internal, what)?;
    nix::sys::prctl::set_dumpable(false).context(ErrorKind::Internal, what)?;
    Ok(())
}
