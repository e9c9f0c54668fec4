//! Renewing the host's own login at a vendor (OAuth 2.0, RFC 6749 section 6).

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Standard input of `bottle-bundle renew`: one JSON document. It is never in a file and never in
/// an argument.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// URL of the token endpoint, `https://…`.
    pub url: String,
    /// PEM of CAs that may sign its certificate, in addition to the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// OAuth client id of the vendor's program that logged in.
    pub client_id: String,
    /// The refresh token. Most servers accept it only once.
    pub refresh_token: Secret,
}

/// Standard output of `bottle-bundle renew`: one JSON document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenewReply {
    /// A new login.
    Login {
        /// The new access token.
        access_token: Secret,
        /// The new refresh token; `None` when the old one stays valid.
        refresh_token: Option<Secret>,
        /// The signed identity token, for the vendor's program.
        id_token: Option<Secret>,
        /// Lifetime of the access token in seconds.
        expires_in: Option<u64>,
        /// When the login was issued, RFC 3339.
        at: String,
    },
    /// The server was not reached, or refused: one line for people.
    Refused(String),
}
