//! The policy in force, and its replacement while the daemon runs.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bottle_policy::{EgressCommand, Policy, Secret, TokenName};
use bottle_scan::Scanner;

use super::routes::{PolicyError, Routes};
use crate::egress::route::tokens::Tokens;
use crate::egress::upstream::network::Network;

/// Most secrets that are searched for. Beyond it, values that no token has any more are forgotten,
/// the oldest first.
const MAX_SECRETS: usize = 64;

/// The routes in force, and what is needed to replace them.
pub struct LivePolicy {
    now: RwLock<Arc<Routes>>,
    tokens: Arc<Tokens>,
    network: Arc<Network>,
    /// Every value that a token has had. An old value is still a secret.
    secrets: Mutex<Vec<(TokenName, Secret)>>,
}

impl LivePolicy {
    /// Puts `policy` in force.
    ///
    /// # Errors
    /// Something in the policy cannot be enforced as written.
    pub fn new(
        policy: Policy,
        tokens: Arc<Tokens>,
        network: Arc<Network>,
    ) -> Result<Self, PolicyError> {
        let secrets = tokens.secrets();
        let routes = Routes::new(policy, &tokens, &Scanner::new(&secrets), &network, None)?;
        Ok(Self {
            now: RwLock::new(Arc::new(routes)),
            tokens,
            network,
            secrets: Mutex::new(secrets),
        })
    }

    /// The routes in force now. A request keeps the ones that it began with.
    pub fn now(&self) -> Arc<Routes> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another policy in force, from the next request on. Routes that stay keep their counters
    /// and connections.
    ///
    /// # Errors
    /// Something in the policy cannot be enforced as written; then the old policy stays.
    pub fn replace(&self, policy: Policy) -> Result<(), PolicyError> {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_routes(&secrets, policy)
    }

    /// Only the holder of the lock on `secrets` may call this.
    fn set_routes(
        &self,
        secrets: &[(TokenName, Secret)],
        policy: Policy,
    ) -> Result<(), PolicyError> {
        let old = self.now();
        let new =
            Routes::new(policy, &self.tokens, &Scanner::new(secrets), &self.network, Some(&old))?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }

    /// Takes a token's new value. Responses are searched for it before it is first used.
    pub fn apply(&self, command: EgressCommand) {
        let EgressCommand::Token { name, value } = &command;
        if let Some(value) = value {
            self.add_secret((name.clone(), value.clone()));
        }
        self.tokens.apply(command);
    }

    fn add_secret(&self, new: (TokenName, Secret)) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.contains(&new) {
            return;
        }
        let current = self.tokens.secrets();
        while secrets.len() >= MAX_SECRETS {
            let Some(old) = secrets.iter().position(|s| !current.contains(s)) else { break };
            secrets.remove(old);
        }
        secrets.push(new);
        // This cannot fail: the same policy was enforceable before.
        if let Err(e) = self.set_routes(&secrets, self.now().policy()) {
            tracing::error!("{e}");
        }
    }
}
