//! How the host's own login at a vendor is renewed (OAuth 2.0, RFC 6749 section 6).

use serde::{Deserialize, Serialize};

use crate::Secret;

/// What `bottle-bundle renew` reads from its standard input, one JSON document; never a file, never
/// argv.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// The token endpoint, `https://…`.
    pub url: String,
    /// PEM of the CAs that it may be signed by, beside the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The vendor's program, whose login it is.
    pub client_id: String,
    /// What the login is renewed with. Most are good once.
    pub refresh_token: Secret,
}

/// What it prints, one JSON document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Renewed {
    /// A new login.
    Login {
        /// The new token.
        access_token: Secret,
        /// What renews it; `None`: what renewed it this time.
        refresh_token: Option<Secret>,
        /// Who logged in, signed; for the vendor's program.
        id_token: Option<Secret>,
        /// Seconds that the token is good for.
        expires_in: Option<u64>,
        /// When it was made, RFC 3339.
        at: String,
    },
    /// The server was not reached, or said no: one line for people.
    Refused(String),
}
