//! The desk: where a running bottle's proposals arrive and are decided. One task of the orchestrator, so that each decision is
//! made once; it alone writes the queue and its audit log.
//!
//! A decision is on disk and in the audit log before it has an effect. What dies with the orchestrator is the bottle, and with it
//! every effect.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottle_policy::audit::{AuditEvent, AuditWriter, Line, Verdict as Said_};
use bottle_policy::{
    Ask, GRANTED, GatePolicy, Policy, ProposalState, ProposalStatus, Route, RouteAsk, Said, SuperviseCommand, SuperviseReport, UpstreamName,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::reload::{InForce, Reloadable};
use crate::error::{Context, Error, Kind, Result};
use crate::guards::Guards;
use crate::manifest::{DirFiles, USER_SKILLS, neutral, parse};
use crate::plan::LaunchPlan;
use crate::process::{Commands, Pipe, Reports};
use crate::proposals::{self, Answer, Decide, Decision, Effect, Left, Policies, Proposal, Queue, Scope, Verdict};
use crate::state::{BottleDir, now_ms, private_dir};

/// Most proposals that wait for a decision.
const PENDING: usize = 8;
/// Most new proposals in [`PERIOD`].
const NEW: usize = 10;
const PERIOD: Duration = Duration::from_secs(600);
/// For so long what was denied is not asked again.
const STAYS_DENIED: Duration = Duration::from_secs(600);
/// How long a decision waits for another reload of this bottle.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest run of a notification command.
const NOTIFY: Duration = Duration::from_secs(10);
/// What the daemon may be behind; one that does not listen misses the rest.
const UNTOLD: usize = 1024;

/// What stands between an agent, or a hasty operator, and a policy that nobody wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// What is wide needs its name typed.
    Typed,
    /// An edit can only narrow.
    Narrow,
    /// The change is made to the policy that was shown.
    Shown,
    /// What is decided stays decided.
    Decided,
    /// What is over stays over.
    Expired,
    /// [`PENDING`].
    Pending,
    /// [`NEW`].
    Rate,
    /// The same ask again is the same proposal.
    Same,
    /// Another ask about the same takes the place of the one before.
    Replaced,
    /// [`STAYS_DENIED`].
    Denied,
    /// What is allowed already is not asked.
    Allowed,
    /// Beside a route that is passthrough there is none.
    Passthrough,
    /// Only what this bottle has can be changed.
    Known,
    /// Only this bottle's own documents are its queue.
    Own,
}

/// Between the steps of a decision, where a process can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is in the audit log, and not in the queue.
    Recorded,
    /// It is in the queue, and not in force.
    Decided,
    /// It is in force, and not in the manifest.
    InForce,
    /// It is all there, and the queue does not say so.
    Done,
}

/// A decision on its way to the desk: what, by which user, and where the answer goes.
pub(super) type Asked = (Decide, u32, oneshot::Sender<Answer>);

/// The running desk. Ending it leaves nothing pending.
pub(super) struct Desk {
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Desk {
    /// Serves the daemon behind `pipe` and those who decide.
    ///
    /// # Errors
    /// The queue or its audit log cannot be opened.
    pub(super) fn start(pipe: Pipe, dir: &BottleDir, plan: Arc<LaunchPlan>, decisions: mpsc::Receiver<Asked>) -> Result<Self> {
        let (daemon, news) = mpsc::channel(UNTOLD);
        let work = Work::new(dir, plan, daemon, Guards::on())?;
        let (drafts, arriving) = mpsc::channel(16);
        let (end, ending) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = work.run(arriving, decisions, ending) => {}
                // A daemon that says or takes nothing more has ended, and the launch sees that by itself.
                () = async { listen(pipe.reports, drafts).await; std::future::pending().await } => {}
                () = async { tell(pipe.commands, news).await; std::future::pending().await } => {}
            }
        });
        Ok(Self { task, end })
    }

    /// Ends it: what is pending expires.
    pub(super) async fn close(self) {
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

struct Work {
    queue: Queue,
    log: AuditWriter,
    dir: BottleDir,
    plan: Arc<LaunchPlan>,
    daemon: mpsc::Sender<SuperviseCommand>,
    guards: Guards<Guard>,
    /// Where a test has it die.
    #[cfg(test)]
    dies: Option<Step>,
    /// When the latest proposals were made.
    new: VecDeque<Instant>,
    denied: Vec<(Instant, u32)>,
    /// Granted routes that end by themselves.
    grants: BTreeMap<u32, Instant>,
}

/// Why there is no proposal, or no decision.
type No = (String, Option<String>);

fn no<T>(why: impl Into<String>) -> Result<T, No> {
    Err((why.into(), None))
}

impl Work {
    /// Takes over the queue of `dir`; `daemon` is where the daemon's news go.
    fn new(dir: &BottleDir, plan: Arc<LaunchPlan>, daemon: mpsc::Sender<SuperviseCommand>, guards: Guards<Guard>) -> Result<Self> {
        let log = AuditWriter::open(&dir.supervise_audit(), "supervise").map_err(|e| Error::new(Kind::Config, e.to_string()))?;
        private_dir(&dir.proposals())?;
        let queue = Queue::read_all(dir, guards.hold(Guard::Own))?;
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

    /// What an earlier launch left: nothing of it is open or in force any more, but a change of the manifest that was
    /// decided and never made is asked again.
    fn take_over(&mut self) -> Result<()> {
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
            self.record("taken-over", Said_::Deny, &proposal, said).map_err(|e| Error::new(Kind::Config, e))?;
            self.queue.put(proposal)?;
        }
        self.queue.forget_oldest();
        Ok(())
    }

    /// As if nobody had decided, and with all its time.
    fn reopen(&self, proposal: &mut Proposal) {
        (proposal.state, proposal.decision, proposal.expires_ms) = (ProposalState::Pending, None, self.expires_ms());
    }

    /// When what is asked now expires.
    fn expires_ms(&self) -> u64 {
        let time = self.plan.asking.expires.unwrap_or(proposals::EXPIRES).duration();
        now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// A place between two steps: here a process may die, and a test has it die.
    async fn reach(&self, step: Step) {
        #[cfg(test)]
        if self.dies == Some(step) {
            std::future::pending::<()>().await;
        }
        if crate::sabotage::breaks(&format!("die-{step:?}")) {
            std::process::abort();
        }
    }

    async fn run(
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
    fn due(&self) -> Duration {
        let now = now_ms();
        let proposals =
            self.queue.all().filter(|p| p.state == ProposalState::Pending).map(|p| Duration::from_millis(p.expires_ms.saturating_sub(now)));
        let grants = self.grants.values().map(|at| at.saturating_duration_since(Instant::now()));
        proposals.chain(grants).min().unwrap_or(Duration::from_secs(3600))
    }

    /// Ends what is over.
    async fn sweep(&mut self) {
        let now = now_ms();
        for proposal in self.queue.pending().into_iter().filter(|p| p.expires_ms <= now) {
            self.over(proposal, ProposalState::Expired, "nobody decided in time").await;
        }
        let ended: Vec<u32> = self.grants.iter().filter(|(_, at)| **at <= Instant::now()).map(|(id, _)| *id).collect();
        for id in ended {
            if let Err((why, _)) = self.take_back(id).await {
                // It must end: once more in a second, and again until it does.
                tracing::error!("the route of proposal {id} cannot be taken back: {why}");
                self.grants.insert(id, Instant::now() + Duration::from_secs(1));
            }
        }
    }

    /// A draft becomes a proposal, or the agent is told why not.
    async fn file(&mut self, mut ask: Ask, reason: Said) -> Result<ProposalStatus, String> {
        let policies = super::in_force(&self.dir).map_err(|e| e.to_string())?;
        if let (Ask::Ref { upstream, branches }, Some(git)) = (&mut ask, &policies.git) {
            // Only what is new, so that taking it back takes back nothing else.
            let rules = git.upstreams.iter().find(|u| u.name == *upstream).and_then(|u| u.push.as_ref());
            branches.retain(|b| rules.is_none_or(|r| !r.branches.contains(b)));
        }
        self.may_ask(&ask, &policies)?;
        let hold = |guard| self.guards.hold(guard);
        if let Some(same) = self.queue.all().find(|p| hold(Guard::Same) && p.state == ProposalState::Pending && p.ask == ask) {
            return Ok(same.status());
        }
        self.denied.retain(|(at, _)| at.elapsed() < STAYS_DENIED);
        let denied = self.denied.iter().filter_map(|(_, id)| self.queue.get(*id)).find(|p| hold(Guard::Denied) && is_no_less(&ask, &p.ask));
        if let Some(denied) = denied {
            return Err(format!("this was denied (proposal {}, {}); ask for less, or go on without it", denied.id, denied.status().text));
        }
        let replaced: Vec<Proposal> =
            self.queue.pending().into_iter().filter(|p| hold(Guard::Replaced) && p.ask.is_about_the_same(&ask)).collect();
        if hold(Guard::Pending) && self.queue.pending().len() - replaced.len() >= PENDING {
            return Err(format!("{PENDING} proposals wait for a decision already; wait for one with proposal_status"));
        }
        while self.new.front().is_some_and(|at| at.elapsed() >= PERIOD) {
            self.new.pop_front();
        }
        if self.guards.hold(Guard::Rate) && self.new.len() >= NEW {
            return Err(format!("{NEW} proposals in {} minutes are enough; go on with something else for a while", PERIOD.as_secs() / 60));
        }
        let id = self.queue.next_id();
        let proposal = Proposal {
            version: 1,
            id,
            bottle: self.dir.slug().to_owned(),
            reason,
            policy: policies.digest_for(&ask),
            diff: proposals::diff(&ask, &policies.routes),
            risks: ask.risks(),
            state: ProposalState::Pending,
            made_ms: now_ms(),
            expires_ms: self.expires_ms(),
            decision: None,
            ask,
        };
        self.record("proposed", Said_::Allow, &proposal, format!("proposal {id}: {} ({})", proposal.ask.summary(), proposal.reason))?;
        self.queue.put(proposal.clone()).map_err(|e| e.to_string())?;
        self.new.push_back(Instant::now());
        for old in replaced {
            self.over(old, ProposalState::Superseded, &format!("proposal {id} asks for the same host")).await;
        }
        notify(&self.plan.asking.notify, &proposal);
        Ok(proposal.status())
    }

    /// What makes no sense to ask a person.
    fn may_ask(&self, ask: &Ask, policies: &Policies) -> Result<(), String> {
        let policy = &policies.routes;
        match ask {
            Ask::Route(route) => {
                route.check()?;
                if self.is_allowed(route, policy) {
                    return Err("the policy allows this already".to_owned());
                }
                let left_alone = |r: &&Route| {
                    self.guards.hold(Guard::Passthrough)
                        && r.passthrough
                        && (r.names(route.host.as_str(), route.port) || route.host.covers(&r.host))
                };
                match policy.routes.iter().find(left_alone) {
                    Some(r) => Err(format!("the route {} for this host is passthrough, and another one cannot be beside it", r.name)),
                    None => Ok(()),
                }
            }
            Ask::Ref { upstream, .. } | Ask::Finding { upstream, .. } => {
                let has = |git: &&GatePolicy| !self.guards.hold(Guard::Known) || git.upstreams.iter().any(|u| u.name == *upstream);
                let git = policies.git.as_ref().filter(has);
                let git = git.ok_or_else(|| format!("this bottle has no git upstream {upstream}"))?;
                let new = proposals::with_git(git, ask).is_some() || !self.guards.hold(Guard::Known);
                if new { Ok(()) } else { Err("git-gate allows this already, or this upstream is not pushed to at all".to_owned()) }
            }
            Ask::GitUpstream { url, .. } if self.plan.git.iter().any(|g| g.url.as_str() == url.as_str()) => {
                Err("this bottle has this repository; propose_ref asks for branches".to_owned())
            }
            Ask::GitUpstream { .. } | Ask::Question { .. } => Ok(()),
        }
    }

    async fn decide(&mut self, decide: Decide, uid: u32) -> Result<Answer, No> {
        let Decide { id, via, verdict } = decide;
        let proposal = self
            .queue
            .get(id)
            .cloned()
            .ok_or_else(|| (format!("there is no proposal {}/{id}", self.dir.slug()), Some("bottle proposals".to_owned())))?;
        self.is_undecided(&proposal).await?;
        let by = format!("{} ({})", user(uid), Said::new(&via, 20));
        match verdict {
            Verdict::Deny { reason } => self.deny(proposal, by, reason).await,
            Verdict::Approve { against, scope, route, typed, answer } => match &proposal.ask {
                Ask::Question { .. } => self.answer(proposal, by, answer).await,
                Ask::Route(_) => self.grant(proposal, by, (against, scope), route, typed.as_deref()).await,
                Ask::Ref { .. } | Ask::Finding { .. } => self.grant_git(proposal, by, (against, scope), typed.as_deref()).await,
                Ask::GitUpstream { .. } => self.save_only(proposal, by, scope, typed.as_deref()).await,
            },
        }
    }

    fn is_allowed(&self, route: &RouteAsk, policy: &Policy) -> bool {
        self.guards.hold(Guard::Allowed) && route.is_allowed_by(policy)
    }

    /// What is wide takes more than a key.
    fn check_typed(&self, ask: &Ask, typed: Option<&str>) -> Result<(), No> {
        let (risks, name) = (ask.risks(), ask.name_to_type());
        if risks.is_empty() || (name.is_some() && typed == name.as_deref()) || !self.guards.hold(Guard::Typed) {
            return Ok(());
        }
        let risks: Vec<&str> = risks.iter().map(|r| r.text()).collect();
        let name = name.unwrap_or_default();
        Err((format!("this is wide ({}); it needs {name} typed", risks.join("; ")), Some(format!("--type {name}"))))
    }

    async fn is_undecided(&mut self, proposal: &Proposal) -> Result<(), No> {
        if let Some(d) = proposal.decision.as_ref().filter(|_| self.guards.hold(Guard::Decided)) {
            return no(format!("proposal {} is {} already, by {}", proposal.id, proposal.state.as_str(), d.by));
        }
        if proposal.decision.is_none() && !proposal.is_open(now_ms()) && self.guards.hold(Guard::Expired) {
            if proposal.state == ProposalState::Pending {
                self.over(proposal.clone(), ProposalState::Expired, "nobody decided in time").await;
            }
            return no(format!("proposal {} is {}", proposal.id, ProposalState::Expired.as_str()));
        }
        Ok(())
    }

    async fn deny(&mut self, mut proposal: Proposal, by: String, reason: Option<String>) -> Result<Answer, No> {
        let text = reason.map(|r| Said::new(&r, bottle_policy::TEXT_CAP).to_string());
        let why = text.clone().unwrap_or_default();
        proposal.state = ProposalState::Denied;
        proposal.decision = Some(decision(by, text));
        self.decided(&proposal, Said_::Deny, &why).await?;
        self.denied.push((Instant::now(), proposal.id));
        Ok(Answer::Done { text: format!("proposal {} is denied", proposal.id) })
    }

    async fn answer(&mut self, mut proposal: Proposal, by: String, answer: Option<String>) -> Result<Answer, No> {
        let Some(answer) = answer.filter(|a| !a.trim().is_empty()) else { return no("a question needs an answer") };
        let text = Said::new(&answer, bottle_policy::TEXT_CAP).to_string();
        proposal.state = ProposalState::Approved;
        proposal.decision = Some(decision(by, Some(text.clone())));
        self.decided(&proposal, Said_::Allow, &text).await?;
        Ok(Answer::Done { text: format!("question {} is answered", proposal.id) })
    }

    /// What git-gate gets at the next launch.
    async fn save_only(&mut self, mut proposal: Proposal, by: String, scope: Scope, typed: Option<&str>) -> Result<Answer, No> {
        self.check_typed(&proposal.ask, typed)?;
        if scope != Scope::Save {
            return Err((
                "a repository cannot be added while the bottle runs".to_owned(),
                Some(format!("bottle proposals approve {}/{} --save   # for the next launch", self.dir.slug(), proposal.id)),
            ));
        }
        let edit = self.manifest_with(&proposal.ask, None).map_err(|e| (e.to_string(), None))?;
        proposal.state = ProposalState::Approved;
        proposal.decision = Some(Decision { scope: Some(scope), effect: Effect::Applying, ..decision(by, None) });
        self.decided(&proposal, Said_::Allow, "").await?;
        self.reach(Step::Decided).await;
        if let Err(e) = edit.write() {
            return self.failed(proposal, &e.to_string());
        }
        self.reach(Step::Done).await;
        let text = format!("proposal {} is in {}; it holds from the next launch on", proposal.id, edit.path.display());
        self.effect(&mut proposal, Effect::Saved)?;
        Ok(Answer::Done { text })
    }

    /// What is approved and cannot be done is as if it were not: the operator is told, and may try again.
    fn failed(&mut self, mut proposal: Proposal, why: &str) -> Result<Answer, No> {
        self.reopen(&mut proposal);
        let why = format!("proposal {} cannot be put in force, and is open again: {why}", proposal.id);
        self.record("failed", Said_::Deny, &proposal, why.clone()).map_err(|why| (why, None))?;
        self.queue.put(proposal.clone()).map_err(|e| (e.to_string(), None))?;
        self.tell(SuperviseCommand::Changed(proposal.status()));
        no(why)
    }

    async fn grant(
        &mut self,
        mut proposal: Proposal,
        by: String,
        (against, scope): (String, Scope),
        edited: Option<RouteAsk>,
        typed: Option<&str>,
    ) -> Result<Answer, No> {
        let Some(asked) = proposal.ask.route().cloned() else { return no("not a route") };
        let route = edited.unwrap_or_else(|| asked.clone());
        route.check().map_err(|why| (why, None))?;
        if self.guards.hold(Guard::Narrow) && !route.is_within(&asked) {
            return no("an edit can only narrow: this lets through what was not asked for");
        }
        self.check_typed(&Ask::Route(route.clone()), typed)?;
        check_time(scope)?;
        let edit = self.edit(&proposal.ask, Some(&route), scope)?;
        // Held until the new policy is in force: no other reload can come between what was shown and what is done.
        let in_force = self.in_force::<Policy>().await?;
        let digest = in_force.policy().digest();
        if digest != against && self.guards.hold(Guard::Shown) {
            return Ok(Answer::Outdated { digest });
        }
        if self.is_allowed(&route, in_force.policy()) {
            self.over(proposal, ProposalState::Superseded, "the policy allows it already").await;
            return no("the policy allows this already: the proposal is superseded");
        }
        let policy = granted(in_force.policy(), proposal.id, &route, scope);
        proposal.state = if route == asked { ProposalState::Approved } else { ProposalState::Edited };
        proposal.decision = Some(Decision { scope: Some(scope), route: Some(route), effect: Effect::Applying, ..decision(by, None) });
        let answer = self.put(proposal, scope, edit, in_force, policy).await?;
        self.supersede_what_is_allowed().await;
        Ok(answer)
    }

    /// Rules of git-gate: what may be pushed.
    async fn grant_git(
        &mut self,
        mut proposal: Proposal,
        by: String,
        (against, scope): (String, Scope),
        typed: Option<&str>,
    ) -> Result<Answer, No> {
        self.check_typed(&proposal.ask, typed)?;
        check_time(scope)?;
        if scope == Scope::Once {
            return no("a push is not one request; approve it for a time (--for 10m)");
        }
        let edit = self.edit(&proposal.ask, None, scope)?;
        let in_force = self.in_force::<GatePolicy>().await?;
        let digest = in_force.policy().digest();
        if digest != against && self.guards.hold(Guard::Shown) {
            return Ok(Answer::Outdated { digest });
        }
        let Some(policy) = proposals::with_git(in_force.policy(), &proposal.ask) else {
            self.over(proposal, ProposalState::Superseded, "git-gate allows it already").await;
            return no("git-gate allows this already: the proposal is superseded");
        };
        proposal.state = ProposalState::Approved;
        proposal.decision = Some(Decision { scope: Some(scope), effect: Effect::Applying, ..decision(by, None) });
        self.put(proposal, scope, edit, in_force, policy).await
    }

    /// Writes a decision down and puts its policy in force, in this order.
    async fn put<P: Reloadable + Send + 'static>(
        &mut self,
        mut proposal: Proposal,
        scope: Scope,
        edit: Option<Edit>,
        in_force: InForce<P>,
        policy: P,
    ) -> Result<Answer, No> {
        self.decided(&proposal, Said_::Allow, "").await?;
        self.reach(Step::Decided).await;
        let digest = match replace(in_force, policy).await {
            Ok(digest) => digest,
            Err(why) => return self.failed(proposal, &why),
        };
        self.reach(Step::InForce).await;
        if let Scope::For(seconds) = scope {
            self.grants.insert(proposal.id, Instant::now() + Duration::from_secs(seconds));
        }
        let mut text = format!("proposal {} is in force {scope}, policy {digest}", proposal.id);
        if let Some(edit) = edit {
            text = match edit.write() {
                Ok(()) => format!("{text}; written to {}", edit.path.display()),
                Err(e) => {
                    proposal.decision.iter_mut().for_each(|d| d.scope = Some(Scope::Launch));
                    format!("proposal {} is in force for this launch, but not saved: {e}", proposal.id)
                }
            };
        }
        self.reach(Step::Done).await;
        self.effect(&mut proposal, Effect::InForce(digest))?;
        Ok(Answer::Done { text })
    }

    /// The changed manifest, if it is to be changed.
    fn edit(&self, ask: &Ask, route: Option<&RouteAsk>, scope: Scope) -> Result<Option<Edit>, No> {
        let edit = (scope == Scope::Save).then(|| self.manifest_with(ask, route)).transpose();
        edit.map_err(|e| (e.to_string(), e.hint_text().map(str::to_owned)))
    }

    /// Takes what was granted out of force.
    async fn take_back(&mut self, id: u32) -> Result<(), No> {
        let failed = |why| (why, None);
        match self.queue.get(id).map(|p| p.ask.clone()) {
            Some(ask @ (Ask::Ref { .. } | Ask::Finding { .. })) => {
                let in_force = self.in_force::<GatePolicy>().await?;
                let policy = proposals::without_git(in_force.policy(), &ask);
                if policy != *in_force.policy() {
                    replace(in_force, policy).await.map_err(failed)?;
                }
            }
            _ => {
                let in_force = self.in_force::<Policy>().await?;
                let name = format!("{GRANTED}{id}");
                let mut policy = in_force.policy().clone();
                policy.routes.retain(|r| r.name != name);
                if policy != *in_force.policy() {
                    replace(in_force, policy).await.map_err(failed)?;
                }
            }
        }
        self.grants.remove(&id);
        if let Some(mut proposal) = self.queue.get(id).cloned() {
            // It is over, whether or not that can be written down.
            if let Err(why) = self.record("ended", Said_::Deny, &proposal, format!("the time of proposal {id} is over")) {
                tracing::error!("{why}");
            }
            self.effect(&mut proposal, Effect::Over)?;
        }
        Ok(())
    }

    async fn supersede_what_is_allowed(&mut self) {
        let Ok(policy) = InForce::<Policy>::policy_of(&self.dir) else { return };
        for proposal in self.queue.pending() {
            if proposal.ask.route().is_some_and(|r| r.is_allowed_by(&policy)) {
                self.over(proposal, ProposalState::Superseded, "the policy allows it now").await;
            }
        }
    }

    /// What is in force, held.
    async fn in_force<P: Reloadable>(&self) -> Result<InForce<P>, No> {
        let began = Instant::now();
        loop {
            match InForce::read(&self.dir) {
                Ok(found) => return Ok(found),
                Err(e) if began.elapsed() >= PATIENCE => return Err((e.to_string(), e.hint_text().map(str::to_owned))),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// A proposal ends without an operator.
    async fn over(&mut self, mut proposal: Proposal, state: ProposalState, why: &str) {
        proposal.state = state;
        proposal.decision = (state == ProposalState::Superseded).then(|| decision("bottle".to_owned(), Some(why.to_owned())));
        if let Err((why, _)) = self.decided(&proposal, Said_::Deny, why).await {
            tracing::error!("proposal {}: {why}", proposal.id);
        }
    }

    /// Writes a decision down, before it has an effect.
    async fn decided(&mut self, proposal: &Proposal, verdict: Said_, why: &str) -> Result<(), No> {
        let by = proposal.decision.as_ref().map(|d| d.by.clone()).unwrap_or_else(|| "bottle".to_owned());
        let scope = proposal.decision.as_ref().and_then(|d| d.scope).map(|s| format!(" {s}")).unwrap_or_default();
        let what =
            proposal.decision.as_ref().and_then(|d| d.route.clone()).map_or_else(|| proposal.ask.summary(), |r| Ask::Route(r).summary());
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let text = format!("proposal {} {} by {by}{scope}: {what}{why}", proposal.id, proposal.state.as_str());
        self.record(proposal.state.as_str(), verdict, proposal, text).map_err(|why| (why, None))?;
        self.reach(Step::Recorded).await;
        self.queue.put(proposal.clone()).map_err(|e| (e.to_string(), None))?;
        self.tell(SuperviseCommand::Changed(proposal.status()));
        Ok(())
    }

    fn effect(&mut self, proposal: &mut Proposal, effect: Effect) -> Result<(), No> {
        if let Some(d) = &mut proposal.decision {
            d.effect = effect;
        }
        self.queue.put(proposal.clone()).map_err(|e| (e.to_string(), None))?;
        self.tell(SuperviseCommand::Changed(proposal.status()));
        Ok(())
    }

    fn tell(&self, command: SuperviseCommand) {
        if let Err(e) = self.daemon.try_send(command) {
            tracing::warn!("supervise is not told: {e}"); // the launch sees its end by itself
        }
    }

    fn record(&self, event: &str, verdict: Said_, proposal: &Proposal, reason: String) -> Result<(), String> {
        let mut line = AuditEvent::new("supervise", event, verdict);
        line.reason = Some(reason);
        if let Some(route) = proposal.decision.as_ref().and_then(|d| d.route.as_ref()).or(proposal.ask.route()) {
            line.host = Some(route.host.to_string());
            line.port = Some(route.port);
            line.route = Some(format!("{GRANTED}{}", proposal.id));
        }
        self.log.append(Line::Opening, line).map(drop).map_err(|e| e.to_string())
    }

    /// The manifest of this launch with what was approved.
    fn manifest_with(&self, ask: &Ask, route: Option<&RouteAsk>) -> Result<Edit> {
        let path = self.plan.manifest.clone().ok_or_else(|| {
            Error::new(Kind::Usage, "this bottle runs a built-in agent: there is no manifest to write to").hint("approve without --save")
        })?;
        let what = || format!("cannot read {}", path.display());
        let old = std::fs::read_to_string(&path).context(Kind::Config, what)?;
        let new = proposals::saved(&old, self.plan.bottle.as_str(), ask, route)?;
        let dir = path.parent().unwrap_or(std::path::Path::new("/"));
        let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
        let user_skills = home.as_ref().map(|h| h.join(USER_SKILLS));
        let files = DirFiles { dir: dir.canonicalize().context(Kind::Config, what)?, home, user_skills };
        parse(new.as_bytes(), &path, &files).map_err(|e| Error::new(Kind::Config, format!("the manifest would be wrong then: {e}")))?;
        Ok(Edit { path, old, new })
    }
}

/// A changed manifest.
struct Edit {
    path: std::path::PathBuf,
    old: String,
    new: String,
}

impl Edit {
    /// Puts it in the place of the old one, if that is still what it was made of.
    fn write(&self) -> Result<()> {
        use std::io::Write;
        let what = || format!("cannot write {}", self.path.display());
        if std::fs::read_to_string(&self.path).context(Kind::Config, what)? != self.old {
            return Err(Error::new(Kind::Config, format!("{} was changed in the meantime", self.path.display())));
        }
        let real = std::fs::canonicalize(&self.path).context(Kind::Config, what)?;
        let mut file = tempfile::NamedTempFile::new_in(real.parent().unwrap_or(&real)).context(Kind::Config, what)?;
        file.write_all(self.new.as_bytes()).context(Kind::Config, what)?;
        let mode = std::fs::metadata(&real).context(Kind::Config, what)?.permissions();
        file.as_file().set_permissions(mode).context(Kind::Config, what)?;
        file.persist(&real).map_err(|e| e.error).context(Kind::Config, what)?;
        Ok(())
    }
}

fn check_time(scope: Scope) -> Result<(), No> {
    match scope {
        Scope::For(s) if s == 0 || s > proposals::LONGEST_GRANT.duration().as_secs() => {
            no(format!("a time is 1s to {}", proposals::LONGEST_GRANT))
        }
        _ => Ok(()),
    }
}

fn decision(by: String, text: Option<String>) -> Decision {
    Decision { by, at_ms: now_ms(), scope: None, route: None, text, effect: Effect::Nothing }
}

/// Whether this launch has from its manifest what was approved.
fn is_in_manifest(plan: &LaunchPlan, proposal: &Proposal) -> bool {
    let upstream = |name: &UpstreamName| plan.git.iter().find(|g| g.name == *name).and_then(|g| g.push.as_ref());
    match &proposal.ask {
        Ask::Route(asked) => proposal.decision.as_ref().and_then(|d| d.route.as_ref()).unwrap_or(asked).is_allowed_by(&plan.policy),
        Ask::GitUpstream { url, .. } => plan.git.iter().any(|g| g.url.as_str() == url.as_str()),
        Ask::Ref { upstream: name, branches } => upstream(name).is_some_and(|p| branches.iter().all(|b| p.branches.contains(b))),
        Ask::Finding { upstream: name, fingerprint } => upstream(name).is_some_and(|p| p.allow.contains(fingerprint)),
        Ask::Question { .. } => true,
    }
}

/// Whether `ask` is what was denied, or more.
fn is_no_less(ask: &Ask, denied: &Ask) -> bool {
    match (ask, denied) {
        (Ask::Route(ask), Ask::Route(denied)) => denied.is_within(ask),
        (ask, denied) => ask == denied,
    }
}

/// `policy` with the route of a proposal at its end. Routes for one request that it makes superfluous go: a spent one would
/// stand in its way.
fn granted(policy: &Policy, id: u32, route: &RouteAsk, scope: Scope) -> Policy {
    let mut routes = policy.routes.clone();
    routes.retain(|r| !(r.name.starts_with(GRANTED) && r.budget.requests.is_some() && r.host == route.host && r.port == route.port));
    let mut new = route.route(format!("{GRANTED}{id}"));
    if scope == Scope::Once {
        new.budget.requests = Some(1);
    }
    routes.push(new);
    Policy::new(routes)
}

/// Puts `policy` in force and gives its digest.
async fn replace<P: Reloadable + Send + 'static>(in_force: InForce<P>, policy: P) -> Result<String, String> {
    let digest = policy.identity();
    let done = tokio::task::spawn_blocking(move || in_force.replace(&policy)).await;
    done.map_err(|e| e.to_string())?.map(|()| digest).map_err(|e| e.to_string())
}

fn user(uid: u32) -> String {
    let name = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|u| u.name);
    name.unwrap_or_else(|| format!("uid {uid}"))
}

/// Tells the operator by a command of theirs. Nothing in its arguments is the agent's prose.
fn notify(command: &[String], proposal: &Proposal) {
    let Some((program, args)) = command.split_first() else { return };
    let what = match &proposal.ask {
        Ask::Question { .. } => "has a question".to_owned(),
        ask => format!("asks: {}", neutral(&ask.summary())),
    };
    let mut command = tokio::process::Command::new(program);
    command
        .args(args)
        .arg(format!("bottle {}", proposal.bottle))
        .arg(format!("{what}   (bottle proposals show {}/{})", proposal.bottle, proposal.id));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    crate::process::die_with_parent(&mut command);
    match command.spawn() {
        Ok(mut child) => drop(tokio::spawn(async move { tokio::time::timeout(NOTIFY, child.wait()).await })),
        Err(e) => tracing::warn!("notify: {program}: {e}"),
    }
}
