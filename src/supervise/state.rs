//! The broker's state: queue, audit log, limits and grants, and how a decision is written down.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottle_policy::audit::{AuditEvent, AuditVerdict, AuditWriter, Line};
use bottle_policy::{Ask, GRANTED_ROUTE_PREFIX, Policy, ProposalState, RouteAsk, SuperviseCommand};
use tokio::sync::mpsc;

use super::checks::{Check, Step};
use super::outcome::{Rejection, decision};
use super::policy_change::is_in_manifest;
use super::proposal::{DEFAULT_EXPIRY, Effect, Proposal, Scope};
use super::queue::{Interrupted, Queue};
use crate::checks::Checks;
use crate::error::{Error, ErrorKind, Result};
use crate::host::fs::private_dir;
use crate::live_policy::PolicySwitch;
use crate::plan::LaunchPlan;
use crate::state::{BottleDir, now_ms};

/// Most commands that wait for the daemon. When it stops reading, later ones are dropped.
pub(super) const MAX_QUEUED_COMMANDS: usize = 1024;

/// The broker's state; its methods are the steps of a proposal.
pub(super) struct BrokerState {
    pub(super) queue: Queue,
    pub(super) log: AuditWriter,
    pub(super) dir: BottleDir,
    pub(super) plan: Arc<LaunchPlan>,
    pub(super) policies: Arc<PolicySwitch>,
    pub(super) daemon: mpsc::Sender<SuperviseCommand>,
    pub(super) checks: Checks<Check>,
    /// The step at which a test makes it die, and the signal before that.
    #[cfg(test)]
    pub(super) dies: Option<(Step, Arc<tokio::sync::Notify>)>,
    /// When the latest proposals were made.
    pub(super) made: VecDeque<Instant>,
    pub(super) denied: Vec<(Instant, u32)>,
    /// Granted routes that end by themselves.
    pub(super) grants: BTreeMap<u32, Instant>,
}

impl BrokerState {
    /// Takes over the queue of `dir`. `daemon` gets the commands for the daemon.
    pub(super) fn new(
        dir: &BottleDir,
        plan: Arc<LaunchPlan>,
        policies: Arc<PolicySwitch>,
        daemon: mpsc::Sender<SuperviseCommand>,
        checks: Checks<Check>,
    ) -> Result<Self> {
        let log = AuditWriter::open(dir.supervise_audit().as_ref(), "supervise")
            .map_err(|e| Error::new(ErrorKind::Config, e.to_string()))?;
        private_dir(dir.proposals())?;
        let queue = Queue::read_all(dir, checks.enabled(Check::Own))?;
        let mut this = Self {
            queue,
            log,
            dir: dir.clone(),
            plan,
            policies,
            daemon,
            checks,
            #[cfg(test)]
            dies: None,
            made: VecDeque::new(),
            denied: Vec::new(),
            grants: BTreeMap::new(),
        };
        this.take_over()?;
        Ok(this)
    }

    /// Ends what an earlier launch left: nothing of it is open or in force any more. A change of
    /// the manifest that was approved and not made is asked again.
    pub(super) fn take_over(&mut self) -> Result<()> {
        for (mut proposal, what) in self.queue.interrupted() {
            let save = proposal.decision.as_ref().and_then(|d| d.scope) == Some(Scope::Save);
            let why = if save
                && what == Interrupted::Applying
                && !is_in_manifest(&self.plan, &proposal)
            {
                self.reopen(&mut proposal);
                "the launch before ended between its approval and its effect: it is open again"
            } else if let Some(d) = &mut proposal.decision {
                d.effect = if save { Effect::Saved } else { Effect::Expired };
                "it ended with its launch"
            } else {
                proposal.state = ProposalState::Expired;
                "its launch ended before anybody decided"
            };
            let reason = format!("proposal {}: {why}", proposal.id);
            self.record("taken-over", AuditVerdict::Deny, &proposal, reason)
                .map_err(|e| Error::new(ErrorKind::Config, e))?;
            self.queue.put(proposal)?;
        }
        self.queue.forget_oldest();
        Ok(())
    }

    /// Makes a proposal pending again, with its full time.
    pub(super) fn reopen(&self, proposal: &mut Proposal) {
        (proposal.state, proposal.decision, proposal.expires_ms) =
            (ProposalState::Pending, None, self.expires_ms());
    }

    /// When a proposal that is made now expires.
    pub(super) fn expires_ms(&self) -> u64 {
        let time = self.plan.asking.expires.unwrap_or(DEFAULT_EXPIRY).duration();
        now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// A place between two steps, where tests make the process die.
    pub(super) async fn reach(&self, step: Step) {
        #[cfg(test)]
        if let Some((_, reached)) = self.dies.as_ref().filter(|(at, _)| *at == step) {
            reached.notify_one();
            std::future::pending::<()>().await;
        }
        if crate::fault_injection::breaks(&format!("die-{step:?}")) {
            std::process::abort();
        }
    }

    /// Time until the next expiry.
    pub(super) fn due(&self) -> Duration {
        let now = now_ms();
        let proposals = self
            .queue
            .all()
            .filter(|p| p.state == ProposalState::Pending)
            .map(|p| Duration::from_millis(p.expires_ms.saturating_sub(now)));
        let grants = self.grants.values().map(|at| at.saturating_duration_since(Instant::now()));
        proposals.chain(grants).min().unwrap_or(Duration::from_secs(3600))
    }

    /// Ends the proposals and grants whose time is over.
    pub(super) async fn sweep(&mut self) {
        let now = now_ms();
        for proposal in self.queue.pending().into_iter().filter(|p| p.expires_ms <= now) {
            self.end(proposal, ProposalState::Expired, "nobody decided in time").await;
        }
        let ended: Vec<u32> = self
            .grants
            .iter()
            .filter(|(_, at)| **at <= Instant::now())
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            if let Err(rejection) = self.revoke(id).await {
                // It must end: try again every second.
                tracing::error!(
                    "the route of proposal {id} cannot be revoked: {}",
                    rejection.reason
                );
                self.grants.insert(id, Instant::now() + Duration::from_secs(1));
            }
        }
    }

    pub(super) fn is_allowed(&self, route: &RouteAsk, policy: &Policy) -> bool {
        self.checks.enabled(Check::Allowed) && route.is_allowed_by(policy)
    }

    /// A proposal ends without an operator.
    pub(super) async fn end(&mut self, mut proposal: Proposal, state: ProposalState, why: &str) {
        proposal.state = state;
        proposal.decision = (state == ProposalState::Superseded)
            .then(|| decision("bottle".to_owned(), Some(why.to_owned())));
        if let Err(rejection) = self.record_decision(&proposal, AuditVerdict::Deny, why).await {
            tracing::error!("proposal {}: {}", proposal.id, rejection.reason);
        }
    }

    /// Writes a decision down, before it has an effect.
    pub(super) async fn record_decision(
        &mut self,
        proposal: &Proposal,
        verdict: AuditVerdict,
        why: &str,
    ) -> Result<(), Rejection> {
        let by =
            proposal.decision.as_ref().map(|d| d.by.clone()).unwrap_or_else(|| "bottle".to_owned());
        let scope = proposal
            .decision
            .as_ref()
            .and_then(|d| d.scope)
            .map(|s| format!(" {s}"))
            .unwrap_or_default();
        let what = proposal
            .decision
            .as_ref()
            .and_then(|d| d.route.clone())
            .map_or_else(|| proposal.ask.summary(), |r| Ask::Route(r).summary());
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let text = format!(
            "proposal {} {} by {by}{scope}: {what}{why}",
            proposal.id,
            proposal.state.as_str()
        );
        self.record(proposal.state.as_str(), verdict, proposal, text).map_err(Rejection::new)?;
        self.reach(Step::Recorded).await;
        self.queue.put(proposal.clone()).map_err(Rejection::from)?;
        self.tell(SuperviseCommand::Changed(proposal.status()));
        Ok(())
    }

    /// Writes down what came of a decision, and tells the agent.
    pub(super) fn set_effect(
        &mut self,
        proposal: &mut Proposal,
        effect: Effect,
    ) -> Result<(), Rejection> {
        if let Some(d) = &mut proposal.decision {
            d.effect = effect;
        }
        self.queue.put(proposal.clone()).map_err(Rejection::from)?;
        self.tell(SuperviseCommand::Changed(proposal.status()));
        Ok(())
    }

    pub(super) fn tell(&self, command: SuperviseCommand) {
        if let Err(e) = self.daemon.try_send(command) {
            tracing::debug!("supervise is not told: {e}"); // the launch notices its end
        }
    }

    pub(super) fn record(
        &self,
        event: &str,
        verdict: AuditVerdict,
        proposal: &Proposal,
        reason: String,
    ) -> Result<(), String> {
        let mut line = AuditEvent::new("supervise", event, verdict);
        line.reason = Some(reason);
        if let Some(route) =
            proposal.decision.as_ref().and_then(|d| d.route.as_ref()).or(proposal.ask.route())
        {
            line.host = Some(route.host.to_string());
            line.port = Some(route.port);
            line.route = Some(format!("{GRANTED_ROUTE_PREFIX}{}", proposal.id));
        }
        self.log.append(Line::Opening, line).map(drop).map_err(|e| e.to_string())
    }
}
