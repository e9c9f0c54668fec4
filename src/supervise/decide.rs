//! A decision, and its effect.

use std::time::{Duration, Instant};

use bottle_policy::audit::AuditVerdict;
use bottle_policy::{
    Ask, GRANTED_ROUTE_PREFIX, GatePolicy, Policy, ProposalState, RouteAsk, SuperviseCommand,
    UntrustedText,
};

use super::broker::{No, Work, decision, no};
use super::checks::{Guard, Step};
use super::manifest_edit::Edit;
use super::{Answer, Decide, Decision, Effect, Proposal, Scope, Verdict};
use crate::live_policy::{InForce, Reloadable};
use crate::state::now_ms;

/// How long a decision waits for another reload of this bottle.
const PATIENCE: Duration = Duration::from_secs(2);

impl Work {
    pub(super) async fn decide(&mut self, decide: Decide, uid: u32) -> Result<Answer, No> {
        let Decide { id, via, verdict } = decide;
        let proposal = self.queue.get(id).cloned().ok_or_else(|| {
            (
                format!("there is no proposal {}/{id}", self.dir.slug()),
                Some("bottle proposals".to_owned()),
            )
        })?;
        self.is_undecided(&proposal).await?;
        let by = format!("{} ({})", user(uid), UntrustedText::new(&via, 20));
        match verdict {
            Verdict::Deny { reason } => self.deny(proposal, by, reason).await,
            Verdict::Approve { against, scope, route, typed, answer } => match &proposal.ask {
                Ask::Question { .. } => self.answer(proposal, by, answer).await,
                Ask::Route(_) => {
                    self.grant(proposal, by, (against, scope), route, typed.as_deref()).await
                }
                Ask::Ref { .. } | Ask::Finding { .. } => {
                    self.grant_git(proposal, by, (against, scope), typed.as_deref()).await
                }
                Ask::GitUpstream { .. } => {
                    self.save_only(proposal, by, scope, typed.as_deref()).await
                }
            },
        }
    }

    /// What is wide takes more than a key.
    fn check_typed(&self, ask: &Ask, typed: Option<&str>) -> Result<(), No> {
        let (risks, name) = (ask.risks(), ask.name_to_type());
        if risks.is_empty()
            || (name.is_some() && typed == name.as_deref())
            || !self.guards.enabled(Guard::Typed)
        {
            return Ok(());
        }
        let risks: Vec<&str> = risks.iter().map(|r| r.text()).collect();
        let name = name.unwrap_or_default();
        Err((
            format!("this is wide ({}); it needs {name} typed", risks.join("; ")),
            Some(format!("--type {name}")),
        ))
    }

    async fn is_undecided(&mut self, proposal: &Proposal) -> Result<(), No> {
        if let Some(d) = proposal.decision.as_ref().filter(|_| self.guards.enabled(Guard::Decided))
        {
            return no(format!(
                "proposal {} is {} already, by {}",
                proposal.id,
                proposal.state.as_str(),
                d.by
            ));
        }
        if proposal.decision.is_none()
            && !proposal.is_open(now_ms())
            && self.guards.enabled(Guard::Expired)
        {
            if proposal.state == ProposalState::Pending {
                self.over(proposal.clone(), ProposalState::Expired, "nobody decided in time").await;
            }
            return no(format!("proposal {} is {}", proposal.id, ProposalState::Expired.as_str()));
        }
        Ok(())
    }

    async fn deny(
        &mut self,
        mut proposal: Proposal,
        by: String,
        reason: Option<String>,
    ) -> Result<Answer, No> {
        let text =
            reason.map(|r| UntrustedText::new(&r, bottle_policy::MAX_TEXT_CHARS).to_string());
        let why = text.clone().unwrap_or_default();
        proposal.state = ProposalState::Denied;
        proposal.decision = Some(decision(by, text));
        self.decided(&proposal, AuditVerdict::Deny, &why).await?;
        self.denied.push((Instant::now(), proposal.id));
        Ok(Answer::Done { text: format!("proposal {} is denied", proposal.id) })
    }

    async fn answer(
        &mut self,
        mut proposal: Proposal,
        by: String,
        answer: Option<String>,
    ) -> Result<Answer, No> {
        let Some(answer) = answer.filter(|a| !a.trim().is_empty()) else {
            return no("a question needs an answer");
        };
        let text = UntrustedText::new(&answer, bottle_policy::MAX_TEXT_CHARS).to_string();
        proposal.state = ProposalState::Approved;
        proposal.decision = Some(decision(by, Some(text.clone())));
        self.decided(&proposal, AuditVerdict::Allow, &text).await?;
        Ok(Answer::Done { text: format!("question {} is answered", proposal.id) })
    }

    /// What git-gate gets at the next launch.
    async fn save_only(
        &mut self,
        mut proposal: Proposal,
        by: String,
        scope: Scope,
        typed: Option<&str>,
    ) -> Result<Answer, No> {
        self.check_typed(&proposal.ask, typed)?;
        if scope != Scope::Save {
            return Err((
                "a repository cannot be added while the bottle runs".to_owned(),
                Some(format!(
                    "bottle proposals approve {}/{} --save   # for the next launch",
                    self.dir.slug(),
                    proposal.id
                )),
            ));
        }
        let edit = self.manifest_with(&proposal.ask, None).map_err(|e| (e.to_string(), None))?;
        proposal.state = ProposalState::Approved;
        proposal.decision =
            Some(Decision { scope: Some(scope), effect: Effect::Applying, ..decision(by, None) });
        self.decided(&proposal, AuditVerdict::Allow, "").await?;
        self.reach(Step::Decided).await;
        if let Err(e) = edit.write() {
            return self.failed(proposal, &e.to_string());
        }
        self.reach(Step::Done).await;
        let text = format!(
            "proposal {} is in {}; it holds from the next launch on",
            proposal.id,
            edit.path.display()
        );
        self.effect(&mut proposal, Effect::Saved)?;
        Ok(Answer::Done { text })
    }

    /// What is approved and cannot be done is as if it were not: the operator is told, and may try
    /// again.
    fn failed(&mut self, mut proposal: Proposal, why: &str) -> Result<Answer, No> {
        self.reopen(&mut proposal);
        let why =
            format!("proposal {} cannot be put in force, and is open again: {why}", proposal.id);
        self.record("failed", AuditVerdict::Deny, &proposal, why.clone())
            .map_err(|why| (why, None))?;
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
        if self.guards.enabled(Guard::Narrow) && !route.is_within(&asked) {
            return no("an edit can only narrow: this lets through what was not asked for");
        }
        self.check_typed(&Ask::Route(route.clone()), typed)?;
        check_time(scope)?;
        let edit = self.edit(&proposal.ask, Some(&route), scope)?;
        // Held until the new policy is in force: no other reload can come between what was shown
        // and what is done.
        let in_force = self.in_force::<Policy>().await?;
        let digest = in_force.policy().digest();
        if digest != against && self.guards.enabled(Guard::Shown) {
            return Ok(Answer::Outdated { digest });
        }
        if self.is_allowed(&route, in_force.policy()) {
            self.over(proposal, ProposalState::Superseded, "the policy allows it already").await;
            return no("the policy allows this already: the proposal is superseded");
        }
        let policy = granted(in_force.policy(), proposal.id, &route, scope);
        proposal.state =
            if route == asked { ProposalState::Approved } else { ProposalState::Edited };
        proposal.decision = Some(Decision {
            scope: Some(scope),
            route: Some(route),
            effect: Effect::Applying,
            ..decision(by, None)
        });
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
        if digest != against && self.guards.enabled(Guard::Shown) {
            return Ok(Answer::Outdated { digest });
        }
        let Some(policy) = super::with_git(in_force.policy(), &proposal.ask) else {
            self.over(proposal, ProposalState::Superseded, "git-gate allows it already").await;
            return no("git-gate allows this already: the proposal is superseded");
        };
        proposal.state = ProposalState::Approved;
        proposal.decision =
            Some(Decision { scope: Some(scope), effect: Effect::Applying, ..decision(by, None) });
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
        self.decided(&proposal, AuditVerdict::Allow, "").await?;
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
                    format!(
                        "proposal {} is in force for this launch, but not saved: {e}",
                        proposal.id
                    )
                }
            };
        }
        self.reach(Step::Done).await;
        self.effect(&mut proposal, Effect::InForce(digest))?;
        Ok(Answer::Done { text })
    }

    /// Takes what was granted out of force.
    pub(super) async fn take_back(&mut self, id: u32) -> Result<(), No> {
        let failed = |why| (why, None);
        match self.queue.get(id).map(|p| p.ask.clone()) {
            Some(ask @ (Ask::Ref { .. } | Ask::Finding { .. })) => {
                let in_force = self.in_force::<GatePolicy>().await?;
                let policy = super::without_git(in_force.policy(), &ask);
                if policy != *in_force.policy() {
                    replace(in_force, policy).await.map_err(failed)?;
                }
            }
            _ => {
                let in_force = self.in_force::<Policy>().await?;
                let name = format!("{GRANTED_ROUTE_PREFIX}{id}");
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
            if let Err(why) = self.record(
                "ended",
                AuditVerdict::Deny,
                &proposal,
                format!("the time of proposal {id} is over"),
            ) {
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
                Err(e) if began.elapsed() >= PATIENCE => {
                    return Err((e.to_string(), e.hint_text().map(str::to_owned)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

fn check_time(scope: Scope) -> Result<(), No> {
    match scope {
        Scope::For(s) if s == 0 || s > super::LONGEST_GRANT.duration().as_secs() => {
            no(format!("a time is 1s to {}", super::LONGEST_GRANT))
        }
        _ => Ok(()),
    }
}

/// `policy` with the route of a proposal at its end. Routes for one request that it makes
/// superfluous go: a spent one would stand in its way.
fn granted(policy: &Policy, id: u32, route: &RouteAsk, scope: Scope) -> Policy {
    let mut routes = policy.routes.clone();
    routes.retain(|r| {
        !(r.name.starts_with(GRANTED_ROUTE_PREFIX)
            && r.budget.requests.is_some()
            && r.host == route.host
            && r.port == route.port)
    });
    let mut new = route.route(format!("{GRANTED_ROUTE_PREFIX}{id}"));
    if scope == Scope::Once {
        new.budget.requests = Some(1);
    }
    routes.push(new);
    Policy::new(routes)
}

/// Puts `policy` in force and gives its digest.
async fn replace<P: Reloadable + Send + 'static>(
    in_force: InForce<P>,
    policy: P,
) -> Result<String, String> {
    let digest = policy.identity();
    let done = tokio::task::spawn_blocking(move || in_force.replace(&policy)).await;
    done.map_err(|e| e.to_string())?.map(|()| digest).map_err(|e| e.to_string())
}

fn user(uid: u32) -> String {
    let name =
        nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|u| u.name);
    name.unwrap_or_else(|| format!("uid {uid}"))
}
