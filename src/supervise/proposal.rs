//! Proposals: what an agent asked for, what was decided, and how that is kept.
//!
//! `STATE/bottles/SLUG/proposals/N.json` is one proposal. Only the orchestrator of the running
//! bottle writes there (`launch/desk.rs`); commands read the files and send it a [`Decide`] over
//! the control socket.

use bottle_policy::{
    Ask, GatePolicy, Policy, ProposalState, ProposalStatus, Push, Risk, RouteAsk, UntrustedText,
    UpstreamName,
};
use serde::{Deserialize, Serialize};

use crate::manifest::Interval;

/// How long a proposal waits for a decision when the manifest does not say.
pub const EXPIRES: Interval = Interval::seconds(4 * 3600);
/// Longest time of a grant.
pub const LONGEST_GRANT: Interval = Interval::seconds(7 * 24 * 3600);

/// One proposal and all that became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// Format version, 1.
    pub version: u32,
    /// Number, from 1, never used again in this bottle's directory.
    pub id: u32,
    /// The bottle that asks.
    pub bottle: String,
    /// What for.
    pub ask: Ask,
    /// Why, in the agent's words.
    pub reason: UntrustedText,
    /// Digest of the policy that was in force when it was made.
    pub policy: String,
    /// What it would change in that policy.
    pub diff: Vec<String>,
    /// What makes it wide.
    pub risks: Vec<Risk>,
    /// Where it is in its life.
    pub state: ProposalState,
    /// When it was made, ms since the epoch.
    pub made_ms: u64,
    /// When nobody can approve it any more.
    pub expires_ms: u64,
    /// What was decided; none while it is pending.
    pub decision: Option<Decision>,
}

/// What was decided on a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Who: a user and the program that was used, or what replaced the decision.
    pub by: String,
    /// When, ms since the epoch.
    pub at_ms: u64,
    /// For how long, if it was a yes to a change.
    pub scope: Option<Scope>,
    /// The route that was approved: what was asked, or narrower.
    pub route: Option<RouteAsk>,
    /// The operator's reason or answer.
    pub text: Option<String>,
    /// What came of it.
    pub effect: Effect,
}

/// How long an approved route is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Scope {
    /// Until the bottle ends.
    Launch,
    /// So many seconds.
    For(u64),
    /// For one request.
    Once,
    /// Until the bottle ends, and in its manifest for those to come.
    Save,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Launch => f.write_str("for this launch"),
            Self::For(seconds) => write!(f, "for {}", Interval::seconds(*seconds)),
            Self::Once => f.write_str("for one request"),
            Self::Save => f.write_str("for this launch and in the manifest"),
        }
    }
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Effect {
    /// It changes nothing by itself.
    Nothing,
    /// Decided; the daemon has not said yes yet. After a crash it stays so: the bottle is gone
    /// then.
    Applying,
    /// In force since the policy of this digest.
    InForce(String),
    /// It was in force, and its time is over.
    Over,
    /// In the manifest, for the next launch.
    Saved,
    /// It could not be put in force.
    Failed(String),
}

/// What is in force in a running bottle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// egress'.
    pub routes: Policy,
    /// git-gate's, if there is one.
    pub git: Option<GatePolicy>,
}

impl Policies {
    /// Digest of the one that `ask` would change.
    #[must_use]
    pub fn digest_for(&self, ask: &Ask) -> String {
        match (ask, &self.git) {
            (Ask::Ref { .. } | Ask::Finding { .. }, Some(git)) => git.digest(),
            _ => self.routes.digest(),
        }
    }
}

/// `policy` with what `ask` asks of git-gate's rules; `None` when it is none of them, or they have
/// it.
#[must_use]
pub fn with_git(policy: &GatePolicy, ask: &Ask) -> Option<GatePolicy> {
    let mut new = policy.clone();
    let at = |name: &UpstreamName| policy.upstreams.iter().position(|u| u.name == *name);
    match ask {
        Ask::Ref { upstream, branches } => {
            let rules =
                new.upstreams[at(upstream)?].push.get_or_insert_with(|| Push::to(Vec::new()));
            branches.iter().for_each(|b| {
                if !rules.branches.contains(b) {
                    rules.branches.push(b.clone())
                }
            });
        }
        Ask::Finding { upstream, fingerprint } => {
            new.upstreams[at(upstream)?].push.as_mut()?.allow.insert(fingerprint.clone());
        }
        _ => return None,
    }
    (new != *policy).then_some(new)
}

/// `policy` without what `ask` added to git-gate's rules.
#[must_use]
pub fn without_git(policy: &GatePolicy, ask: &Ask) -> GatePolicy {
    let mut new = policy.clone();
    let rules = |new: &mut GatePolicy, name: &UpstreamName, change: &dyn Fn(&mut Push)| {
        new.upstreams
            .iter_mut()
            .filter(|u| u.name == *name)
            .filter_map(|u| u.push.as_mut())
            .for_each(change);
    };
    match ask {
        Ask::Ref { upstream, branches } => {
            rules(&mut new, upstream, &|p| p.branches.retain(|b| !branches.contains(b)))
        }
        Ask::Finding { upstream, fingerprint } => {
            rules(&mut new, upstream, &|p| p.allow.retain(|f| f != fingerprint));
        }
        _ => {}
    }
    new
}

/// What a command asks the orchestrator to decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// The proposal.
    pub id: u32,
    /// The program that asks: `cli`, `dashboard`, `web`.
    pub via: String,
    /// The decision.
    pub verdict: Verdict,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verdict {
    /// Yes.
    Approve {
        /// Digest of the policy that the operator was shown the change against.
        against: String,
        /// For how long.
        scope: Scope,
        /// Less than was asked; none: as asked.
        route: Option<RouteAsk>,
        /// What a wide proposal needs: its host, typed.
        typed: Option<String>,
        /// The answer to a question.
        answer: Option<String>,
    },
    /// No.
    Deny {
        /// Why, for the agent.
        reason: Option<String>,
    },
}

/// What the orchestrator says to a [`Decide`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// Decided.
    Done {
        /// What holds now.
        text: String,
    },
    /// The policy is another than the one that the operator was shown: look again.
    Outdated {
        /// The digest of now.
        digest: String,
    },
    /// Not decided by this.
    Refused {
        /// Why.
        why: String,
        /// What to do.
        hint: Option<String>,
    },
}

impl Proposal {
    /// Whether it waits for a decision at `now_ms`.
    #[must_use]
    pub fn is_open(&self, now_ms: u64) -> bool {
        self.state == ProposalState::Pending && now_ms < self.expires_ms
    }

    /// What its agent is told.
    #[must_use]
    pub fn status(&self) -> ProposalStatus {
        ProposalStatus { id: self.id, state: self.state, text: self.told() }
    }

    fn told(&self) -> String {
        let Some(d) = &self.decision else {
            return match self.state {
                ProposalState::Pending => "a person is asked; nobody has decided yet".to_owned(),
                ProposalState::Expired => "nobody decided in time".to_owned(),
                _ => self.state.as_str().to_owned(),
            };
        };
        let scope = d.scope.map(|s| s.to_string()).unwrap_or_default();
        let allowed =
            || d.route.as_ref().map(|r| Ask::Route(r.clone()).summary()).unwrap_or_default();
        let text = d.text.as_deref().unwrap_or_default();
        match (&d.effect, self.state) {
            (_, ProposalState::Denied) if text.is_empty() => "denied".to_owned(),
            (_, ProposalState::Denied) => format!("denied: {text}"),
            (_, ProposalState::Superseded) => format!("superseded: {text}"),
            (Effect::InForce(_), _) => format!("allowed {scope}: {}", allowed()),
            (Effect::Over, _) => "it was allowed, and its time is over".to_owned(),
            (Effect::Failed(why), _) => format!("approved, but it cannot be put in force: {why}"),
            (Effect::Saved, _) => "approved; it holds from the next launch on".to_owned(),
            (Effect::Applying, _) => "approved; it is being put in force".to_owned(),
            (Effect::Nothing, _) => format!("the operator says: {text}"),
        }
    }
}
