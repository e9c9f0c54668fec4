//! An agent's draft becomes a proposal, or the agent is told why not.

use std::time::{Duration, Instant};

use bottle_policy::audit::AuditVerdict;
use bottle_policy::{Ask, GatePolicy, ProposalState, ProposalStatus, Route, UntrustedText};

use super::checks::Check;
use super::policy_change::with_git;
use super::proposal::Proposal;
use super::render::diff;
use super::state::BrokerState;
use crate::host::process::{Program, Sink};
use crate::live_policy::LivePolicies;
use crate::state::now_ms;
use crate::values::neutral;

/// Most proposals that wait for a decision.
const MAX_PENDING: usize = 8;
/// Most new proposals in one [`PERIOD`].
const MAX_NEW_PER_PERIOD: usize = 10;
const PERIOD: Duration = Duration::from_secs(600);
/// How long the agent cannot ask again for what was denied.
const STAYS_DENIED: Duration = Duration::from_secs(600);
/// Longest run of a notification command.
const NOTIFY_DEADLINE: Duration = Duration::from_secs(10);

impl BrokerState {
    /// Makes a proposal of a draft, or says why not.
    pub(super) async fn submit(
        &mut self,
        mut ask: Ask,
        reason: UntrustedText,
    ) -> Result<ProposalStatus, String> {
        let policies = crate::live_policy::in_force(&self.dir).map_err(|e| e.chain())?;
        if let (Ask::Ref { upstream, branches }, Some(git)) = (&mut ask, &policies.git) {
            // Only new branches, so that revoking the grant revokes nothing else.
            let rules =
                git.upstreams.iter().find(|u| u.name == *upstream).and_then(|u| u.push.as_ref());
            branches.retain(|b| rules.is_none_or(|r| !r.branches.contains(b)));
        }
        self.may_ask(&ask, &policies)?;
        if let Some(same) = self.pending_same(&ask) {
            return Ok(same.status());
        }
        self.check_denied(&ask)?;
        let replaced: Vec<Proposal> = self
            .queue
            .pending()
            .into_iter()
            .filter(|p| self.checks.enabled(Check::Replaced) && p.ask.is_about_the_same(&ask))
            .collect();
        self.check_limits(replaced.len())?;
        let id = self.queue.next_id();
        let proposal = Proposal {
            version: 1,
            id,
            bottle: self.dir.slug().to_owned(),
            reason,
            policy: policies.digest_for(&ask),
            diff: diff(&ask, &policies.routes),
            risks: ask.risks(&policies.routes),
            state: ProposalState::Pending,
            made_ms: now_ms(),
            expires_ms: self.expires_ms(),
            decision: None,
            ask,
        };
        self.record(
            "proposed",
            AuditVerdict::Allow,
            &proposal,
            format!("proposal {id}: {} ({})", proposal.ask.summary(), proposal.reason),
        )?;
        self.queue.put(proposal.clone()).map_err(|e| e.chain())?;
        self.made.push_back(Instant::now());
        for old in replaced {
            self.end(
                old,
                ProposalState::Superseded,
                &format!("proposal {id} asks for the same host"),
            )
            .await;
        }
        notify(&self.plan.asking.notify, &proposal);
        Ok(proposal.status())
    }

    /// The pending proposal that asks for exactly this.
    fn pending_same(&self, ask: &Ask) -> Option<&Proposal> {
        let mut all = self.queue.all().filter(|_| self.checks.enabled(Check::Same));
        all.find(|p| p.state == ProposalState::Pending && p.ask == *ask)
    }

    /// Refuses what was denied a short time ago.
    fn check_denied(&mut self, ask: &Ask) -> Result<(), String> {
        self.denied.retain(|(at, _)| at.elapsed() < STAYS_DENIED);
        let mut denied = self.denied.iter().filter_map(|(_, id)| self.queue.get(*id));
        match denied.find(|p| self.checks.enabled(Check::Denied) && is_no_less(ask, &p.ask)) {
            Some(denied) => Err(format!(
                "this was denied (proposal {}, {}); ask for less, or go on without it",
                denied.id,
                denied.status().text
            )),
            None => Ok(()),
        }
    }

    /// Refuses more proposals than a person can decide, `replaced` of which would go.
    fn check_limits(&mut self, replaced: usize) -> Result<(), String> {
        let pending = self.queue.pending().len() - replaced;
        if self.checks.enabled(Check::Pending) && pending >= MAX_PENDING {
            return Err(format!(
                "{MAX_PENDING} proposals wait for a decision already; wait for one with proposal_status"
            ));
        }
        while self.made.front().is_some_and(|at| at.elapsed() >= PERIOD) {
            self.made.pop_front();
        }
        if self.checks.enabled(Check::Rate) && self.made.len() >= MAX_NEW_PER_PERIOD {
            return Err(format!(
                "{MAX_NEW_PER_PERIOD} proposals in {} minutes are enough; go on with something else for a while",
                PERIOD.as_secs() / 60
            ));
        }
        Ok(())
    }

    /// Refuses what no person needs to be asked.
    fn may_ask(&self, ask: &Ask, policies: &LivePolicies) -> Result<(), String> {
        let policy = &policies.routes;
        match ask {
            Ask::Route(route) => {
                route.check()?;
                if self.is_allowed(route, policy) {
                    return Err("the policy allows this already".to_owned());
                }
                let left_alone = |r: &&Route| {
                    self.checks.enabled(Check::Passthrough)
                        && r.passthrough
                        && (r.names(route.host.as_str(), route.port) || route.host.covers(&r.host))
                };
                match policy.routes.iter().find(left_alone) {
                    Some(r) => Err(format!(
                        "the route {} for this host is passthrough, and another one cannot be beside it",
                        r.name
                    )),
                    None => Ok(()),
                }
            }
            Ask::Ref { upstream, .. } | Ask::Finding { upstream, .. } => {
                let has = |git: &&GatePolicy| {
                    !self.checks.enabled(Check::Known)
                        || git.upstreams.iter().any(|u| u.name == *upstream)
                };
                let git = policies.git.as_ref().filter(has);
                let git =
                    git.ok_or_else(|| format!("this bottle has no git upstream {upstream}"))?;
                let new = with_git(git, ask).is_some() || !self.checks.enabled(Check::Known);
                if new {
                    Ok(())
                } else {
                    Err("git-gate allows this already, or this upstream is not pushed to at all"
                        .to_owned())
                }
            }
            Ask::GitUpstream { url, .. }
                if self.plan.git.iter().any(|g| g.url.as_str() == url.as_str()) =>
            {
                Err("this bottle has this repository; propose_ref asks for branches".to_owned())
            }
            Ask::Question { choices, .. } if self.checks.enabled(Check::Choices) => {
                check_choices(choices)
            }
            Ask::GitUpstream { .. } | Ask::Question { .. } => Ok(()),
        }
    }
}

/// Refuses choices that an operator could confuse: two that look the same, and a number that is not
/// the choice's own.
fn check_choices(choices: &[UntrustedText]) -> Result<(), String> {
    let plain = |choice: &UntrustedText| {
        let text = choice.to_string().to_lowercase();
        text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
    };
    let all: Vec<String> = choices.iter().map(plain).collect();
    for (i, choice) in all.iter().enumerate() {
        if choice.is_empty() {
            return Err(format!("choice {} is empty", i + 1));
        }
        if let Some(same) = all[..i].iter().position(|other| other == choice) {
            return Err(format!("choices {} and {} are the same: {choice}", same + 1, i + 1));
        }
        // A person who types 2 means the second choice.
        if choice.parse::<usize>().is_ok_and(|n| n != i + 1 && (1..=all.len()).contains(&n)) {
            return Err(format!(
                "choice {} is the number of another choice; say it in words",
                i + 1
            ));
        }
    }
    Ok(())
}

/// Whether `ask` asks for what was denied, or for more.
fn is_no_less(ask: &Ask, denied: &Ask) -> bool {
    match (ask, denied) {
        (Ask::Route(ask), Ask::Route(denied)) => denied.is_within(ask),
        (ask, denied) => ask == denied,
    }
}

/// Runs the operator's notification command. Its arguments hold none of the agent's own text.
fn notify(command: &[String], proposal: &Proposal) {
    let Some((program, args)) = command.split_first() else { return };
    let what = match &proposal.ask {
        Ask::Question { .. } => "has a question".to_owned(),
        ask => format!("asks: {}", neutral(&ask.summary())),
    };
    let bottle = &proposal.bottle;
    let command = Program::new("notify", program)
        .args(args)
        .arg(format!("bottle {bottle}"))
        .arg(format!("{what}   (bottle proposals show {bottle}/{})", proposal.id))
        .inherit_env()
        .in_foreground()
        .stdout(Sink::Null)
        .stderr(Sink::Null);
    let program = program.clone();
    tokio::spawn(async move {
        if let Err(e) = command.output_async(NOTIFY_DEADLINE).await {
            tracing::warn!("notify: {program}: {e}");
        }
    });
}
