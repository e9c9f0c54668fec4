//! Decisions of operators, and their effect.

use std::time::{Duration, Instant};

use bottle_policy::audit::AuditVerdict;
use bottle_policy::{
    Ask, GRANTED_ROUTE_PREFIX, GatePolicy, Policy, ProposalState, SuperviseCommand, UntrustedText,
};

use super::checks::{Check, Step};
use super::manifest_edit::Edit;
use super::outcome::{Approval, Rejection, decision, reject};
use super::policy_change::{granted, with_git, without_git};
use super::proposal::{
    Decide, Decision, DecisionOutcome, Effect, LONGEST_GRANT, Proposal, Scope, Verdict, chosen,
};
use super::state::BrokerState;
use crate::live_policy::{LivePolicy, Reloadable, policy_of};
use crate::state::now_ms;

impl BrokerState {
    pub(super) async fn decide(
        &mut self,
        decide: Decide,
        uid: u32,
    ) -> Result<DecisionOutcome, Rejection> {
        let Decide { id, via, verdict } = decide;
        let proposal = self.queue.get(id).cloned().ok_or_else(|| {
            Rejection::new(format!("there is no proposal {}/{id}", self.dir.slug()))
                .hint("bottle proposals")
        })?;
        self.check_undecided(&proposal).await?;
        let by = format!("{} ({})", user(uid), UntrustedText::new(&via, 20));
        match verdict {
            Verdict::Deny { reason } => self.deny(proposal, by, reason).await,
            Verdict::Approve { against, scope, route, typed, answer } => {
                let approval = Approval { against, scope, route, typed, by };
                match &proposal.ask {
                    Ask::Question { .. } => self.answer(proposal, approval.by, answer).await,
                    Ask::Route(_) => self.grant_route(proposal, approval).await,
                    Ask::Ref { .. } | Ask::Finding { .. } => {
                        self.grant_git(proposal, approval).await
                    }
                    Ask::GitUpstream { .. } => self.save_for_next_launch(proposal, approval).await,
                }
            }
        }
    }

    /// A wide proposal needs its name typed.
    fn check_typed(&self, ask: &Ask, typed: Option<&str>) -> Result<(), Rejection> {
        let policies = crate::live_policy::in_force(&self.dir).map_err(Rejection::from)?;
        let (risks, name) = (ask.risks(&policies.routes), ask.name_to_type());
        if risks.is_empty()
            || (name.is_some() && typed == name.as_deref())
            || !self.checks.enabled(Check::Typed)
        {
            return Ok(());
        }
        let risks: Vec<&str> = risks.iter().map(|r| r.text()).collect();
        let name = name.unwrap_or_default();
        let reason = format!("this is wide ({}); it needs {name} typed", risks.join("; "));
        Err(Rejection::new(reason).hint(format!("--type {name}")))
    }

    async fn check_undecided(&mut self, proposal: &Proposal) -> Result<(), Rejection> {
        if let Some(d) = proposal.decision.as_ref().filter(|_| self.checks.enabled(Check::Decided))
        {
            return reject(format!(
                "proposal {} is {} already, by {}",
                proposal.id,
                proposal.state.as_str(),
                d.by
            ));
        }
        if proposal.decision.is_none()
            && !proposal.is_open(now_ms())
            && self.checks.enabled(Check::Expired)
        {
            if proposal.state == ProposalState::Pending {
                self.end(proposal.clone(), ProposalState::Expired, "nobody decided in time").await;
            }
            return reject(format!(
                "proposal {} is {}",
                proposal.id,
                ProposalState::Expired.as_str()
            ));
        }
        Ok(())
    }

    async fn deny(
        &mut self,
        mut proposal: Proposal,
        by: String,
        reason: Option<String>,
    ) -> Result<DecisionOutcome, Rejection> {
        let text =
            reason.map(|r| UntrustedText::new(&r, bottle_policy::MAX_TEXT_CHARS).to_string());
        let why = text.clone().unwrap_or_default();
        proposal.state = ProposalState::Denied;
        proposal.decision = Some(decision(by, text));
        self.record_decision(&proposal, AuditVerdict::Deny, &why).await?;
        self.denied.push((Instant::now(), proposal.id));
        Ok(DecisionOutcome::Done { text: format!("proposal {} is denied", proposal.id) })
    }

    async fn answer(
        &mut self,
        mut proposal: Proposal,
        by: String,
        answer: Option<String>,
    ) -> Result<DecisionOutcome, Rejection> {
        let Some(answer) = answer.filter(|a| !a.trim().is_empty()) else {
            return reject("a question needs an answer");
        };
        let answer = chosen(&proposal.ask, &answer);
        let text = UntrustedText::new(&answer, bottle_policy::MAX_TEXT_CHARS).to_string();
        proposal.state = ProposalState::Approved;
        proposal.decision = Some(decision(by, Some(text.clone())));
        self.record_decision(&proposal, AuditVerdict::Allow, &text).await?;
        Ok(DecisionOutcome::Done { text: format!("question {} is answered", proposal.id) })
    }

    /// A repository for the manifest: git-gate gets it at the next launch.
    async fn save_for_next_launch(
        &mut self,
        mut proposal: Proposal,
        approval: Approval,
    ) -> Result<DecisionOutcome, Rejection> {
        let Approval { scope, typed, by, .. } = approval;
        self.check_typed(&proposal.ask, typed.as_deref())?;
        if scope != Scope::Save {
            return Err(Rejection::new("a repository cannot be added while the bottle runs").hint(
                format!(
                    "bottle proposals approve {}/{} --save   # for the next launch",
                    self.dir.slug(),
                    proposal.id
                ),
            ));
        }
        let edit = self.manifest_with(&proposal.ask, None)?;
        proposal.state = ProposalState::Approved;
        proposal.decision =
            Some(Decision { scope: Some(scope), effect: Effect::Applying, ..decision(by, None) });
        self.record_decision(&proposal, AuditVerdict::Allow, "").await?;
        self.reach(Step::Decided).await;
        if let Err(e) = edit.write() {
            return self.failed(proposal, &e.chain());
        }
        self.reach(Step::Done).await;
        let text = format!(
            "proposal {} is in {}; it holds from the next launch on",
            proposal.id,
            edit.path.display()
        );
        self.set_effect(&mut proposal, Effect::Saved)?;
        Ok(DecisionOutcome::Done { text })
    }

    /// An approval that cannot be put in force is undone: the proposal is open again, and the
    /// operator is told.
    fn failed(&mut self, mut proposal: Proposal, why: &str) -> Result<DecisionOutcome, Rejection> {
        self.reopen(&mut proposal);
        let why =
            format!("proposal {} cannot be put in force, and is open again: {why}", proposal.id);
        self.record("failed", AuditVerdict::Deny, &proposal, why.clone())
            .map_err(Rejection::new)?;
        self.queue.put(proposal.clone()).map_err(Rejection::from)?;
        self.tell(SuperviseCommand::Changed(proposal.status()));
        reject(why)
    }

    async fn grant_route(
        &mut self,
        mut proposal: Proposal,
        approval: Approval,
    ) -> Result<DecisionOutcome, Rejection> {
        let Some(asked) = proposal.ask.route().cloned() else { return reject("not a route") };
        let Approval { against, scope, route, typed, by } = approval;
        let route = route.unwrap_or_else(|| asked.clone());
        route.check().map_err(Rejection::new)?;
        if self.checks.enabled(Check::Narrow) && !route.is_within(&asked) {
            return reject("an edit can only narrow: this lets through what was not asked for");
        }
        self.check_typed(&Ask::Route(route.clone()), typed.as_deref())?;
        check_duration(scope)?;
        let edit = self.edit(&proposal.ask, Some(&route), scope)?;
        // Locked until the new policy is in force, so that no other reload comes between.
        let in_force = self.in_force::<Policy>().await?;
        let digest = in_force.policy().digest();
        if digest != against && self.checks.enabled(Check::Shown) {
            return Ok(DecisionOutcome::Outdated { digest });
        }
        if self.is_allowed(&route, in_force.policy()) {
            self.end(proposal, ProposalState::Superseded, "the policy allows it already").await;
            return reject("the policy allows this already: the proposal is superseded");
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
        let answer = self.enforce(proposal, scope, edit, in_force, policy).await?;
        self.supersede_what_is_allowed().await;
        Ok(answer)
    }

    /// Rules of git-gate: what may be pushed.
    async fn grant_git(
        &mut self,
        mut proposal: Proposal,
        approval: Approval,
    ) -> Result<DecisionOutcome, Rejection> {
        let Approval { against, scope, typed, by, .. } = approval;
        self.check_typed(&proposal.ask, typed.as_deref())?;
        check_duration(scope)?;
        if scope == Scope::Once {
            return reject("a push is not one request; approve it for a time (--for 10m)");
        }
        let edit = self.edit(&proposal.ask, None, scope)?;
        let in_force = self.in_force::<GatePolicy>().await?;
        let digest = in_force.policy().digest();
        if digest != against && self.checks.enabled(Check::Shown) {
            return Ok(DecisionOutcome::Outdated { digest });
        }
        let Some(policy) = with_git(in_force.policy(), &proposal.ask) else {
            self.end(proposal, ProposalState::Superseded, "git-gate allows it already").await;
            return reject("git-gate allows this already: the proposal is superseded");
        };
        proposal.state = ProposalState::Approved;
        proposal.decision =
            Some(Decision { scope: Some(scope), effect: Effect::Applying, ..decision(by, None) });
        self.enforce(proposal, scope, edit, in_force, policy).await
    }

    /// Writes a decision down, then puts its policy in force.
    async fn enforce<P: Reloadable>(
        &mut self,
        mut proposal: Proposal,
        scope: Scope,
        edit: Option<Edit>,
        in_force: LivePolicy<P>,
        policy: P,
    ) -> Result<DecisionOutcome, Rejection> {
        self.record_decision(&proposal, AuditVerdict::Allow, "").await?;
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
                        "proposal {} is in force for this launch, but not saved: {e:#}",
                        proposal.id
                    )
                }
            };
        }
        self.reach(Step::Done).await;
        self.set_effect(&mut proposal, Effect::InForce(digest))?;
        Ok(DecisionOutcome::Done { text })
    }

    /// Takes a grant out of force.
    pub(super) async fn revoke(&mut self, id: u32) -> Result<(), Rejection> {
        match self.queue.get(id).map(|p| p.ask.clone()) {
            Some(ask @ (Ask::Ref { .. } | Ask::Finding { .. })) => {
                let in_force = self.in_force::<GatePolicy>().await?;
                let policy = without_git(in_force.policy(), &ask);
                if policy != *in_force.policy() {
                    replace(in_force, policy).await.map_err(Rejection::new)?;
                }
            }
            _ => {
                let in_force = self.in_force::<Policy>().await?;
                let name = format!("{GRANTED_ROUTE_PREFIX}{id}");
                let mut policy = in_force.policy().clone();
                policy.routes.retain(|r| r.name != name);
                if policy != *in_force.policy() {
                    replace(in_force, policy).await.map_err(Rejection::new)?;
                }
            }
        }
        self.grants.remove(&id);
        if let Some(mut proposal) = self.queue.get(id).cloned() {
            // It has ended, even if that cannot be written down.
            if let Err(why) = self.record(
                "ended",
                AuditVerdict::Deny,
                &proposal,
                format!("the time of proposal {id} is over"),
            ) {
                tracing::error!("{why}");
            }
            self.set_effect(&mut proposal, Effect::Expired)?;
        }
        Ok(())
    }

    async fn supersede_what_is_allowed(&mut self) {
        let Ok(policy) = policy_of::<Policy>(&self.dir) else { return };
        for proposal in self.queue.pending() {
            if proposal.ask.route().is_some_and(|r| r.is_allowed_by(&policy)) {
                self.end(proposal, ProposalState::Superseded, "the policy allows it now").await;
            }
        }
    }

    /// The policy in force, locked.
    async fn in_force<P: Reloadable>(&self) -> Result<LivePolicy<P>, Rejection> {
        self.policies.lock().await.map_err(Rejection::from)
    }
}

fn check_duration(scope: Scope) -> Result<(), Rejection> {
    match scope {
        Scope::For(s) if s == 0 || s > LONGEST_GRANT.duration().as_secs() => {
            reject(format!("a time is 1s to {}", LONGEST_GRANT))
        }
        _ => Ok(()),
    }
}

/// Puts `policy` in force and gives its digest.
async fn replace<P: Reloadable>(in_force: LivePolicy<P>, policy: P) -> Result<String, String> {
    in_force.replace(&policy).await.map_err(|e| e.chain())?;
    Ok(policy.identity())
}

fn user(uid: u32) -> String {
    let name =
        nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|u| u.name);
    name.unwrap_or_else(|| format!("uid {uid}"))
}
