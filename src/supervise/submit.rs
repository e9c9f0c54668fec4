//! A draft becomes a proposal, or the agent is told why not.

use std::process::Stdio;
use std::time::{Duration, Instant};

use bottle_policy::audit::AuditVerdict;
use bottle_policy::{Ask, GatePolicy, ProposalState, ProposalStatus, Route, UntrustedText};

use super::broker::Work;
use super::checks::Guard;
use super::{Policies, Proposal};
use crate::manifest::neutral;
use crate::state::now_ms;

/// Most proposals that wait for a decision.
const PENDING: usize = 8;
/// Most new proposals in [`PERIOD`].
const NEW: usize = 10;
const PERIOD: Duration = Duration::from_secs(600);
/// For so long what was denied is not asked again.
const STAYS_DENIED: Duration = Duration::from_secs(600);
/// Longest run of a notification command.
const NOTIFY: Duration = Duration::from_secs(10);

impl Work {
    /// A draft becomes a proposal, or the agent is told why not.
    pub(super) async fn file(
        &mut self,
        mut ask: Ask,
        reason: UntrustedText,
    ) -> Result<ProposalStatus, String> {
        let policies = crate::live_policy::in_force(&self.dir).map_err(|e| e.to_string())?;
        if let (Ask::Ref { upstream, branches }, Some(git)) = (&mut ask, &policies.git) {
            // Only what is new, so that taking it back takes back nothing else.
            let rules =
                git.upstreams.iter().find(|u| u.name == *upstream).and_then(|u| u.push.as_ref());
            branches.retain(|b| rules.is_none_or(|r| !r.branches.contains(b)));
        }
        self.may_ask(&ask, &policies)?;
        let hold = |guard| self.guards.enabled(guard);
        if let Some(same) = self
            .queue
            .all()
            .find(|p| hold(Guard::Same) && p.state == ProposalState::Pending && p.ask == ask)
        {
            return Ok(same.status());
        }
        self.denied.retain(|(at, _)| at.elapsed() < STAYS_DENIED);
        let denied = self
            .denied
            .iter()
            .filter_map(|(_, id)| self.queue.get(*id))
            .find(|p| hold(Guard::Denied) && is_no_less(&ask, &p.ask));
        if let Some(denied) = denied {
            return Err(format!(
                "this was denied (proposal {}, {}); ask for less, or go on without it",
                denied.id,
                denied.status().text
            ));
        }
        let replaced: Vec<Proposal> = self
            .queue
            .pending()
            .into_iter()
            .filter(|p| hold(Guard::Replaced) && p.ask.is_about_the_same(&ask))
            .collect();
        if hold(Guard::Pending) && self.queue.pending().len() - replaced.len() >= PENDING {
            return Err(format!(
                "{PENDING} proposals wait for a decision already; wait for one with proposal_status"
            ));
        }
        while self.new.front().is_some_and(|at| at.elapsed() >= PERIOD) {
            self.new.pop_front();
        }
        if self.guards.enabled(Guard::Rate) && self.new.len() >= NEW {
            return Err(format!(
                "{NEW} proposals in {} minutes are enough; go on with something else for a while",
                PERIOD.as_secs() / 60
            ));
        }
        let id = self.queue.next_id();
        let proposal = Proposal {
            version: 1,
            id,
            bottle: self.dir.slug().to_owned(),
            reason,
            policy: policies.digest_for(&ask),
            diff: super::diff(&ask, &policies.routes),
            risks: ask.risks(),
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
        self.queue.put(proposal.clone()).map_err(|e| e.to_string())?;
        self.new.push_back(Instant::now());
        for old in replaced {
            self.over(
                old,
                ProposalState::Superseded,
                &format!("proposal {id} asks for the same host"),
            )
            .await;
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
                    self.guards.enabled(Guard::Passthrough)
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
                    !self.guards.enabled(Guard::Known)
                        || git.upstreams.iter().any(|u| u.name == *upstream)
                };
                let git = policies.git.as_ref().filter(has);
                let git =
                    git.ok_or_else(|| format!("this bottle has no git upstream {upstream}"))?;
                let new = super::with_git(git, ask).is_some() || !self.guards.enabled(Guard::Known);
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
            Ask::GitUpstream { .. } | Ask::Question { .. } => Ok(()),
        }
    }
}

/// Whether `ask` is what was denied, or more.
fn is_no_less(ask: &Ask, denied: &Ask) -> bool {
    match (ask, denied) {
        (Ask::Route(ask), Ask::Route(denied)) => denied.is_within(ask),
        (ask, denied) => ask == denied,
    }
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
    crate::host::process::die_with_parent(&mut command);
    match command.spawn() {
        Ok(mut child) => {
            drop(tokio::spawn(async move { tokio::time::timeout(NOTIFY, child.wait()).await }))
        }
        Err(e) => tracing::warn!("notify: {program}: {e}"),
    }
}
