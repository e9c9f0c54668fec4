//! Proposals: what an agent asked for, what was decided, and how that is kept.
//!
//! `STATE/bottles/SLUG/proposals/N.json` is one proposal. Only the orchestrator of the running
//! bottle writes there (`supervise/broker.rs`); commands read the files and send it a [`Decide`]
//! over the control socket.

use bottle_policy::{Ask, ProposalState, ProposalStatus, Risk, RouteAsk, UntrustedText};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::live_policy::LivePolicies;
use crate::values::Interval;

/// How long a proposal waits for a decision when the manifest does not say.
pub const DEFAULT_EXPIRY: Interval = Interval::seconds(4 * 3600);
/// Longest time of a grant.
pub const LONGEST_GRANT: Interval = Interval::seconds(7 * 24 * 3600);

/// One proposal, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// Format version, 1.
    pub version: u32,
    /// Number, from 1, never used again in this bottle's directory.
    pub id: u32,
    /// The bottle that asks.
    pub bottle: String,
    /// What it asks for.
    pub ask: Ask,
    /// Why, in the agent's words.
    pub reason: UntrustedText,
    /// Digest of the policy that was in force when it was made.
    pub policy: String,
    /// What it would change in that policy.
    pub diff: Vec<String>,
    /// Risks that make it wide.
    pub risks: Vec<Risk>,
    /// Its state.
    pub state: ProposalState,
    /// When it was made, ms since the epoch.
    pub made_ms: u64,
    /// When it expires, ms since the epoch.
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

/// How long an approval holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Scope {
    /// Until the bottle ends.
    Launch,
    /// For so many seconds.
    For(u64),
    /// For one request.
    Once,
    /// Until the bottle ends, and in the manifest for later launches.
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
    /// None: a denial, or an answer.
    Nothing,
    /// Decided, and not confirmed by the daemon yet. It stays so after a crash, when the bottle is
    /// gone.
    Applying,
    /// In force, since the policy with this digest.
    InForce(String),
    /// It was in force, and its time is over.
    #[serde(rename = "over")]
    Expired,
    /// In the manifest, for the next launch.
    Saved,
    /// It could not be put in force.
    Failed(String),
}

/// A decision that a command sends to the orchestrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// The proposal.
    pub id: u32,
    /// The program that sends it: `cli`, `dashboard`, `web`.
    pub via: String,
    /// The decision.
    pub verdict: Verdict,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verdict {
    /// Approves it.
    Approve {
        /// Digest of the policy that the operator was shown the change against.
        against: String,
        /// For how long.
        scope: Scope,
        /// A narrower route; none: as asked.
        route: Option<RouteAsk>,
        /// The host, typed, which a wide proposal needs.
        typed: Option<String>,
        /// The answer to a question.
        answer: Option<String>,
    },
    /// Denies it.
    Deny {
        /// Why, for the agent.
        reason: Option<String>,
    },
}

/// The orchestrator's answer to a [`Decide`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DecisionOutcome {
    /// Decided.
    Done {
        /// What was done, for the operator.
        text: String,
    },
    /// The policy has changed since the operator was shown the proposal.
    Outdated {
        /// The digest of the current policy.
        digest: String,
    },
    /// Nothing was decided.
    Refused {
        /// Why.
        why: String,
        /// What to do.
        hint: Option<String>,
    },
}

impl DecisionOutcome {
    /// What was done about the proposal `name` (`BOTTLE/N`), for the operator.
    ///
    /// # Errors
    /// `Config`: nothing was decided, with the reason and what to type.
    pub fn into_result(self, name: &str) -> Result<String> {
        match self {
            Self::Done { text } => Ok(text),
            Self::Outdated { .. } => Err(Error::new(
                ErrorKind::Config,
                format!("the policy has changed since {name} was asked; look at it again"),
            )
            .hint(format!("bottle proposals show {name}"))),
            Self::Refused { why, hint } => {
                let refused = Error::new(ErrorKind::Config, why);
                Err(hint.into_iter().fold(refused, Error::hint))
            }
        }
    }
}

/// The answer to a question that `text` means: the choice of that number, or `text` itself.
#[must_use]
pub fn chosen(ask: &Ask, text: &str) -> String {
    let Ask::Question { choices, .. } = ask else { return text.to_owned() };
    let number = text.trim().parse::<usize>().ok().and_then(|n| n.checked_sub(1));
    number.and_then(|n| choices.get(n)).map_or_else(|| text.to_owned(), ToString::to_string)
}

impl Proposal {
    /// Whether it waits for a decision at `now_ms`.
    #[must_use]
    pub fn is_open(&self, now_ms: u64) -> bool {
        self.state == ProposalState::Pending && now_ms < self.expires_ms
    }

    /// Its risks beside `now`, the policies in force; those of when it was made if that is unknown
    /// or it is decided.
    #[must_use]
    pub fn risks_beside(&self, now: Option<&LivePolicies>) -> Vec<Risk> {
        now.filter(|_| self.state == ProposalState::Pending)
            .map_or_else(|| self.risks.clone(), |now| self.ask.risks(&now.routes))
    }

    /// Its state, as the agent is told.
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
            (Effect::Expired, _) => "it was allowed, and its time is over".to_owned(),
            (Effect::Failed(why), _) => format!("approved, but it cannot be put in force: {why}"),
            (Effect::Saved, _) => "approved; it holds from the next launch on".to_owned(),
            (Effect::Applying, _) => "approved; it is being put in force".to_owned(),
            (Effect::Nothing, _) => format!("the operator says: {text}"),
        }
    }
}
