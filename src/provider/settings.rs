//! The files of an agent's settings in the guest, and what they are made from.

use serde::{Deserialize, Serialize};

use super::login_layout::Auth;
use crate::values::Guest;

/// What the guest's settings are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedProvider {
    /// How the credential is sent.
    pub auth: Auth,
    /// Where the vendor's API is.
    pub base_url: String,
    /// Model to ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The account that requests must name; not secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The agent keeps its own permission prompts.
    #[serde(default)]
    pub ask: bool,
}

/// What the files of an agent's settings are made from.
pub struct SettingsInputs<'a> {
    /// Its account in the guest.
    pub guest: &'a Guest,
    /// Its planned settings.
    pub settings: &'a PlannedProvider,
    /// The system prompt.
    pub prompt: Option<&'a str>,
    /// The MCP server that the agent may ask for more: its name and URL.
    pub supervise: Option<(&'static str, String)>,
}

/// A small file below the agent's home, private to it.
#[derive(Debug)]
pub struct GuestFile {
    /// Relative to the home.
    pub path: String,
    /// Text.
    pub content: String,
}

impl GuestFile {
    pub(super) fn json(path: &str, value: &serde_json::Value) -> Self {
        Self { path: path.to_owned(), content: format!("{value:#}\n") }
    }
}
