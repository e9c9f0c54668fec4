//! Values that must never be printed, and the one document that carries them to a daemon.

use std::collections::BTreeMap;
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

/// What `bottle-bundle egress` reads as the first line of its standard input; never a file, never argv.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressInput {
    /// PEM of the bottle's CA certificate.
    pub ca_cert: String,
    /// PEM (PKCS#8) of the bottle's CA key.
    pub ca_key: Secret,
    /// Token values by the names that the policy's routes use.
    pub tokens: BTreeMap<TokenName, Secret>,
}
