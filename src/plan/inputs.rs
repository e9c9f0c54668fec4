//! What a plan is made from besides the manifest, and why there may be none.

use std::collections::BTreeMap;

use super::types::{Engine, Identity, ImageFacts};
use crate::manifest::ManifestErrors;
use crate::provider::{LoginFacts, Provider};
use crate::values::{EnvName, Slug};

/// File of the prompt, relative to the agent's home.
pub const PROMPT: &str = ".bottle/prompt.md";
/// Facts about this host, gathered by the caller.
pub struct Host<'a> {
    /// The host's variables: `&|name| std::env::var(name).ok()`.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The chosen engine, and why it was chosen.
    pub engine: Engine,
    /// Images of the closure by name.
    pub images: BTreeMap<Slug, ImageFacts>,
    /// The operator's git identity.
    pub identity: Option<Identity>,
    /// The host's own logins.
    pub logins: BTreeMap<Provider, LoginFacts>,
}

/// What the operator asked for on the command line.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Instance name; `None`: the agent's name.
    pub slug: Option<Slug>,
    /// `-- CMD…`, replaces the agent's command; empty: no replacement.
    pub command: Vec<String>,
    /// `--env K=V`: answers to questions, replacements, and further guest variables.
    pub env: BTreeMap<EnvName, String>,
    /// Keep the agent's own permission prompts.
    pub ask: bool,
    /// Use the host's own login.
    pub login: bool,
    /// Resume the agent's previous conversation.
    pub resume: bool,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No agent of that name.
    #[error("no agent {name}\n  hint: {hint}")]
    UnknownAgent {
        /// What was asked for, quoted and neutralised.
        name: String,
        /// The nearest name, or all.
        hint: String,
    },
    /// The manifest does not fit this host (unset variable, unknown image, …).
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
}
