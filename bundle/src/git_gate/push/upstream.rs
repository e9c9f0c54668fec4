//! One upstream: its mirror, its rules, and the key that attests pushes to it.

use std::sync::{Arc, PoisonError, RwLock};

use bottle_policy::{GateTextError, GateUpstream, Push, Stale};
use tokio::sync::Mutex;

use super::attest::Attestor;
use super::ref_policy::RefPolicy;
use crate::git_gate::fetch::mirror::Mirror;
use crate::git_gate::refusal::{Refusal, Rule};

/// The part of an upstream's policy that can change while the daemon runs.
#[derive(Debug)]
pub struct UpstreamRules {
    /// What a fetch gets while the upstream cannot be reached.
    pub stale: Stale,
    /// What may be pushed, and its patterns. `None`: the upstream is read-only.
    pub push: Option<(Push, RefPolicy)>,
    /// Digest of the whole policy that these rules are from.
    pub digest: String,
}

impl UpstreamRules {
    /// The rules of `upstream` in the policy with this `digest`.
    ///
    /// # Errors
    /// A pattern is not valid with the names of this agent and bottle.
    pub fn new(
        upstream: &GateUpstream,
        (agent, slug): (&str, &str),
        digest: String,
    ) -> Result<Self, GateTextError> {
        let push = upstream
            .push
            .as_ref()
            .map(|p| Ok((p.clone(), RefPolicy::new(p, agent, slug)?)))
            .transpose()?;
        Ok(Self { stale: upstream.stale, push, digest })
    }

    /// What may be pushed.
    ///
    /// # Errors
    /// [`Rule::ReadOnly`].
    pub fn push(&self) -> Result<&(Push, RefPolicy), Refusal> {
        let read_only =
            || Refusal::new(Rule::ReadOnly, "this bottle may not push to this upstream");
        self.push.as_ref().ok_or_else(read_only)
    }
}

/// One upstream.
#[derive(Debug)]
pub struct Upstream {
    /// Its mirror.
    pub mirror: Arc<Mirror>,
    rules: RwLock<Arc<UpstreamRules>>,
    /// Signs notes about pushes, if the policy asks for them.
    pub attestor: Option<Attestor>,
    /// Held by a push from its checks to its end: pushes to one upstream take turns.
    pub push_turn: Mutex<()>,
}

impl Upstream {
    /// An upstream with the rules that the daemon starts with.
    #[must_use]
    pub fn new(mirror: Arc<Mirror>, rules: UpstreamRules, attestor: Option<Attestor>) -> Self {
        let rules = RwLock::new(Arc::new(rules));
        Self { mirror, rules, attestor, push_turn: Mutex::default() }
    }

    /// The rules in force. A push ends under the rules that it began with, or not at all.
    pub fn rules(&self) -> Arc<UpstreamRules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other rules in force.
    pub fn replace_rules(&self, rules: UpstreamRules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }
}
