//! The desk: where a running bottle's proposals arrive and are decided. One task of the
//! orchestrator, so that each decision is made once; it alone writes the queue and its audit log.
//!
//! A decision is on disk and in the audit log before it has an effect. What dies with the
//! orchestrator is the bottle, and with it every effect.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottle_policy::audit::{AuditEvent, AuditVerdict, AuditWriter, Line};
use bottle_policy::{
    Ask, GRANTED_ROUTE_PREFIX, Policy, ProposalState, RouteAsk, SuperviseCommand, SuperviseReport,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::checks::{Guard, Step};
use super::manifest_edit::is_in_manifest;
use super::{Answer, Decide, Decision, Effect, Left, Proposal, Queue, Scope};
use crate::checks::Checks;
use crate::error::{Error, Kind, Result};
use crate::host::process::{Commands, Pipe, Reports};
use crate::plan::LaunchPlan;
use crate::state::{BottleDir, now_ms, private_dir};

/// What the daemon may be behind; one that does not listen misses the rest.
pub(super) const UNTOLD: usize = 1024;

/// A decision on its way to the desk: what, by which user, and where the answer goes.
pub(crate) type Asked = (Decide, u32, oneshot::Sender<Answer>);

/// The running desk. Ending it leaves nothing pending.
pub(crate) struct Desk {
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Desk {
    /// Serves the daemon behind `pipe` and those who decide.
    ///
    /// # Errors
    /// The queue or its audit log cannot be opened.
    pub(crate) fn start(
        pipe: Pipe,
        dir: &BottleDir,
        plan: Arc<LaunchPlan>,
        decisions: mpsc::Receiver<Asked>,
    ) -> Result<Self> {
        let (daemon, news) = mpsc::channel(UNTOLD);
        let work = Work::new(dir, plan, daemon, Checks::on())?;
        let (drafts, arriving) = mpsc::channel(16);
        let (end, ending) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = work.run(arriving, decisions, ending) => {}
                // A daemon that says or takes nothing more has ended, and the launch sees that by
                // itself.
                () = async { listen(pipe.reports, drafts).await; std::future::pending().await } => {}
                () = async { tell(pipe.commands, news).await; std::future::pending().await } => {}
            }
        });
        Ok(Self { task, end })
    }

    /// Ends it: what is pending expires.
    pub(crate) async fn close(self) {
        let _ = self.end.send(());
        let _ = tokio::time::timeout(Duration::from_secs(3), self.task).await;
    }
}

async fn listen(mut reports: Reports, drafts: mpsc::Sender<SuperviseReport>) {
    while let Some(line) = reports.next().await {
        match serde_json::from_slice(&line) {
            Ok(draft) => drop(drafts.send(draft).await),
            Err(e) => tracing::debug!("a report that is none: {e}"),
        }
    }
}

/// What the daemon is told, in an order of its own: a decision does not wait for a daemon.
async fn tell(mut commands: Commands, mut news: mpsc::Receiver<SuperviseCommand>) {
    while let Some(command) = news.recv().await {
        if let Err(e) = commands.send(&command).await {
            tracing::debug!("{e}");
            return;
        }
    }
}

pub(super) struct Work {
    pub(super) queue: Queue,
    pub(super) log: AuditWriter,
    pub(super) dir: BottleDir,
    pub(super) plan: Arc<LaunchPlan>,
    pub(super) daemon: mpsc::Sender<SuperviseCommand>,
    pub(super) guards: Checks<Guard>,
    /// Where a test has it die, and what it says first.
    #[cfg(test)]
    pub(super) dies: Option<(Step, Arc<tokio::sync::Notify>)>,
    /// When the latest proposals were made.
    pub(super) new: VecDeque<Instant>,
    pub(super) denied: Vec<(Instant, u32)>,
    /// Granted routes that end by themselves.
    pub(super) grants: BTreeMap<u32, Instant>,
}

/// Why there is no proposal, or no decision.
pub(super) type No = (String, Option<String>);

pub(super) fn no<T>(why: impl Into<String>) -> Result<T, No> {
    Err((why.into(), None))
}

impl Work {
    /// Takes over the queue of `dir`; `daemon` is where the daemon's news go.
    pub(super) fn new(
        dir: &BottleDir,
        plan: Arc<LaunchPlan>,
        daemon: mpsc::Sender<SuperviseCommand>,
        guards: Checks<Guard>,
    ) -> Result<Self> {
        let log = AuditWriter::open(&dir.supervise_audit(), "supervise")
            .map_err(|e| Error::new(Kind::Config, e.to_string()))?;
        private_dir(&dir.proposals())?;
        let queue = Queue::read_all(dir, guards.enabled(Guard::Own))?;
        let mut this = Self {
            queue,
            log,
            dir: dir.clone(),
            plan,
            daemon,
            guards,
            #[cfg(test)]
            dies: None,
            new: VecDeque::new(),
            denied: Vec::new(),
            grants: BTreeMap::new(),
        };
        this.take_over()?;
        Ok(this)
    }

    /// What an earlier launch left: nothing of it is open or in force any more, but a change of the
    /// manifest that was decided and never made is asked again.
    pub(super) fn take_over(&mut self) -> Result<()> {
        for (mut proposal, what) in self.queue.left() {
            let save = proposal.decision.as_ref().and_then(|d| d.scope) == Some(Scope::Save);
            let why = if save && what == Left::Applying && !is_in_manifest(&self.plan, &proposal) {
                self.reopen(&mut proposal);
                "the launch before ended between its approval and its effect: it is open again"
            } else if let Some(d) = &mut proposal.decision {
                d.effect = if save { Effect::Saved } else { Effect::Over };
                "it ended with its launch"
            } else {
                proposal.state = ProposalState::Expired;
                "its launch ended before anybody decided"
            };
            let said = format!("proposal {}: {why}", proposal.id);
            self.record("taken-over", AuditVerdict::Deny, &proposal, said)
                .map_err(|e| Error::new(Kind::Config, e))?;
            self.queue.put(proposal)?;
        }
        self.queue.forget_oldest();
        Ok(())
    }

    /// As if nobody had decided, and with all its time.
    pub(super) fn reopen(&self, proposal: &mut Proposal) {
        (proposal.state, proposal.decision, proposal.expires_ms) =
            (ProposalState::Pending, None, self.expires_ms());
    }

    /// When what is asked now expires.
    pub(super) fn expires_ms(&self) -> u64 {
        let time = self.plan.asking.expires.unwrap_or(super::EXPIRES).duration();
        now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// A place between two steps: here a process may die, and a test has it die.
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

    pub(super) async fn run(
        mut self,
        mut drafts: mpsc::Receiver<SuperviseReport>,
        mut decisions: mpsc::Receiver<Asked>,
        mut ending: oneshot::Receiver<()>,
    ) {
        loop {
            let due = self.due();
            tokio::select! {
                draft = drafts.recv() => match draft {
                    Some(SuperviseReport::Draft { call, ask, reason }) => {
                        let answer = self.file(ask, reason).await;
                        self.tell(SuperviseCommand::Filed { call, answer });
                    }
                    None => return,
                },
                Some((decide, uid, caller)) = decisions.recv() => {
                    let answer = match self.decide(decide, uid).await {
                        Ok(answer) => answer,
                        Err((why, hint)) => Answer::Refused { why, hint },
                    };
                    let _ = caller.send(answer); // whoever asked may be gone; it is decided
                }
                () = tokio::time::sleep(due) => self.sweep().await,
                _ = &mut ending => break,
            }
        }
        for proposal in self.queue.pending() {
            self.over(proposal, ProposalState::Expired, "the bottle ended").await;
        }
        let _ = self.log.finish();
    }

    /// Until the next thing happens by itself.
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

    /// Ends what is over.
    pub(super) async fn sweep(&mut self) {
        let now = now_ms();
        for proposal in self.queue.pending().into_iter().filter(|p| p.expires_ms <= now) {
            self.over(proposal, ProposalState::Expired, "nobody decided in time").await;
        }
        let ended: Vec<u32> = self
            .grants
            .iter()
            .filter(|(_, at)| **at <= Instant::now())
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            if let Err((why, _)) = self.take_back(id).await {
                // It must end: once more in a second, and again until it does.
                tracing::error!("the route of proposal {id} cannot be taken back: {why}");
                self.grants.insert(id, Instant::now() + Duration::from_secs(1));
            }
        }
    }

    pub(super) fn is_allowed(&self, route: &RouteAsk, policy: &Policy) -> bool {
        self.guards.enabled(Guard::Allowed) && route.is_allowed_by(policy)
    }

    /// A proposal ends without an operator.
    pub(super) async fn over(&mut self, mut proposal: Proposal, state: ProposalState, why: &str) {
        proposal.state = state;
        proposal.decision = (state == ProposalState::Superseded)
            .then(|| decision("bottle".to_owned(), Some(why.to_owned())));
        if let Err((why, _)) = self.decided(&proposal, AuditVerdict::Deny, why).await {
            tracing::error!("proposal {}: {why}", proposal.id);
        }
    }

    /// Writes a decision down, before it has an effect.
    pub(super) async fn decided(
        &mut self,
        proposal: &Proposal,
        verdict: AuditVerdict,
        why: &str,
    ) -> Result<(), No> {
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
        self.record(proposal.state.as_str(), verdict, proposal, text).map_err(|why| (why, None))?;
        self.reach(Step::Recorded).await;
        self.queue.put(proposal.clone()).map_err(|e| (e.to_string(), None))?;
        self.tell(SuperviseCommand::Changed(proposal.status()));
        Ok(())
    }

    pub(super) fn effect(&mut self, proposal: &mut Proposal, effect: Effect) -> Result<(), No> {
        if let Some(d) = &mut proposal.decision {
            d.effect = effect;
        }
        self.queue.put(proposal.clone()).map_err(|e| (e.to_string(), None))?;
        self.tell(SuperviseCommand::Changed(proposal.status()));
        Ok(())
    }

    pub(super) fn tell(&self, command: SuperviseCommand) {
        if let Err(e) = self.daemon.try_send(command) {
            tracing::debug!("supervise is not told: {e}"); // the launch sees its end by itself
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

pub(super) fn decision(by: String, text: Option<String>) -> Decision {
    Decision { by, at_ms: now_ms(), scope: None, route: None, text, effect: Effect::Nothing }
}
