//! What one route allows, injects, searches for and counts.

use std::sync::{Arc, Mutex, PoisonError};

use bottle_policy::{Inject, Route};
use bottle_scan::Profile;

use super::credential::{Credential, CredentialError};
use super::quota::Quota;
use super::tokens::Token;
use crate::egress::limits::RouteTimes;
use crate::egress::refusal::{Refusal, Rule};

/// A route with its credential and its counters. Nothing of one route is ever used for another.
pub struct RouteRules {
    /// The route as written in the policy.
    pub route: Route,
    /// What is injected.
    pub credential: Option<LiveCredential>,
    /// What is searched for in its requests and responses.
    pub profile: Profile,
    /// What is left of its budget and rate.
    pub quota: Arc<Quota>,
}

/// The keys of a route's `timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeLimit {
    /// `first_byte`.
    FirstByte,
    /// `idle`.
    Idle,
    /// `total`.
    Total,
}

impl RouteRules {
    /// The refusal of a request for which `limit` has passed.
    #[must_use]
    pub fn timed_out(&self, limit: TimeLimit, times: RouteTimes) -> Refusal {
        let (what, time, key) = match limit {
            TimeLimit::FirstByte => {
                ("the upstream sent no byte of an answer", times.first_byte, "first_byte")
            }
            TimeLimit::Idle => ("the connection was silent", times.idle, "idle"),
            TimeLimit::Total => ("the request was not finished", times.total, "total"),
        };
        let route = &self.route.name;
        let reason = format!("{what} for {time:?}, which is timeout.{key} of route {route}");
        let longer = (time * 2).as_secs().max(1);
        Refusal::new(Rule::UpstreamTimeout, reason).hint(format!(
            "to wait longer, in bottle.toml, in the route: timeout = {{ {key} = \"{longer}s\" }}"
        ))
    }

    /// Whether the route allows this method on this path, which is decoded.
    #[must_use]
    pub fn allows(&self, method: &str, path: &str) -> bool {
        let Route { methods, paths, .. } = &self.route;
        (methods.is_empty() || methods.iter().any(|m| m.as_str() == method))
            && (paths.is_empty() || paths.iter().any(|p| p.matches(path)))
    }
}

/// A credential that follows its token's value.
pub struct LiveCredential {
    inject: Inject,
    /// The token.
    pub token: Arc<Token>,
    current: Mutex<(u64, Credential)>,
}

impl LiveCredential {
    /// The credential that `inject` makes of `token`.
    ///
    /// # Errors
    /// A place that must not be injected into, or a value that does not fit there.
    pub fn new(inject: Inject, token: Arc<Token>) -> Result<Self, CredentialError> {
        let (version, value) = token.value();
        let current = Mutex::new((version, Credential::new(&inject, &value)?));
        Ok(Self { inject, token, current })
    }

    /// The credential of the token's current value, and that value's version.
    pub fn now(&self) -> (u64, Credential) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != self.token.version() {
            let (version, value) = self.token.value();
            // With a value that does not fit, the old credential stays; the upstream refuses it.
            match Credential::new(&self.inject, &value) {
                Ok(new) => *current = (version, new),
                Err(e) => tracing::error!("{e}"),
            }
        }
        current.clone()
    }
}
