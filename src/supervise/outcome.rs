//! How a decision reaches the broker, and what comes back.

use bottle_policy::RouteAsk;
use tokio::sync::oneshot;

use super::proposal::{Decide, Decision, DecisionOutcome, Effect, Scope};
use crate::error::Error;
use crate::state::now_ms;

/// A decision on its way to the broker.
pub(crate) struct DecisionRequest {
    /// The decision.
    pub decide: Decide,
    /// The user who makes it.
    pub uid: u32,
    /// Where the outcome goes.
    pub outcome: oneshot::Sender<DecisionOutcome>,
}

/// Why there is no proposal, or no decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    /// One line.
    pub reason: String,
    /// What to type instead.
    pub hint: Option<String>,
}

impl Rejection {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<Error> for Rejection {
    fn from(e: Error) -> Self {
        Self { reason: e.chain(), hint: e.hint_text().map(str::to_owned) }
    }
}

/// Shorthand for an `Err` without a hint.
pub(super) fn reject<T>(reason: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection::new(reason))
}

/// An operator's yes to a change of policy.
pub(super) struct Approval {
    /// Digest of the policy that the operator was shown the change against.
    pub against: String,
    /// For how long.
    pub scope: Scope,
    /// Less than was asked for; `None`: as asked.
    pub route: Option<RouteAsk>,
    /// The name that a wide proposal needs typed.
    pub typed: Option<String>,
    /// The operator.
    pub by: String,
}

/// A decision that has no effect yet.
pub(super) fn decision(by: String, text: Option<String>) -> Decision {
    Decision { by, at_ms: now_ms(), scope: None, route: None, text, effect: Effect::Nothing }
}
