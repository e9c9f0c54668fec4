//! Values that must never be printed, and the lines that carry them to a daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::TokenName;

/// A secret string: wiped on drop, hidden by `Debug`, never `Display`.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop, PartialEq, Eq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes over `value`; the caller keeps no copy.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value, at the place where it is used.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// What an egress daemon reads as the first line of its standard input; never a file, never argv.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressInput {
    /// PEM of the bottle's CA certificate.
    pub ca_cert: String,
    /// PEM (PKCS#8) of the bottle's CA key.
    pub ca_key: Secret,
    /// Token values by the names that the policy's routes use.
    pub tokens: BTreeMap<TokenName, Secret>,
    /// Tokens of which the orchestrator can get a new value: [`EgressReport::Stale`] asks for one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub refreshable: BTreeSet<TokenName>,
}

/// What the daemon is told later, one JSON line each, on the same standard input.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum EgressCommand {
    /// A token's new value, from the next request on; `None` when there is no new one to be had.
    Token {
        /// Which.
        name: TokenName,
        /// The value.
        value: Option<Secret>,
    },
}

/// What the daemon says on its standard output after `ready`, one JSON line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum EgressReport {
    /// An upstream answered 401 to this token, one of [`EgressInput::refreshable`]. Answered by
    /// [`EgressCommand::Token`].
    Stale {
        /// Which.
        token: TokenName,
    },
}
