//! How vendors' programs keep their logins on the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a credential is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// As the vendor's API key.
    ApiKey,
    /// As a bearer token (OAuth, subscription).
    Bearer,
}

/// What a plan has to know of a login; nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFacts {
    /// Its file on the host.
    pub file: PathBuf,
    /// How its credential is sent.
    pub auth: Auth,
    /// The account, where requests must name it (ChatGPT's).
    pub account: Option<String>,
}

/// How a vendor's program keeps its login on the host: a JSON file. Places in it are JSON pointers.
pub struct LoginLayout {
    /// The file, below the home.
    pub file: &'static str,
    /// Places of the access token, and how a token that is found there is sent. The first wins.
    pub tokens: &'static [(&'static str, Auth)],
    /// Place of the refresh token.
    pub refresh_token: &'static str,
    /// Place of the account's id, where requests must name it.
    pub account: Option<&'static str>,
    /// Place of the token's end, ms since the epoch; without it, the token itself says so (a JWT).
    pub expires_ms: Option<&'static str>,
    /// The vendor's token endpoint (OAuth).
    pub token_url: &'static str,
    /// The OAuth client id of the vendor's program.
    pub client_id: &'static str,
    /// What is written after a renewal, and where.
    pub renewed: &'static [(&'static str, RenewedField)],
    /// The command with which the operator logs in.
    pub command: &'static str,
}

/// A part of a renewed login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewedField {
    /// The new access token.
    AccessToken,
    /// The new refresh token, where the vendor sends one.
    RefreshToken,
    /// The new id token, where the vendor sends one.
    IdToken,
    /// When the access token ends, ms since the epoch; null where the vendor does not say.
    ExpiresMs,
    /// When it was renewed.
    RenewedAt,
}
