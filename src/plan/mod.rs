//! Manifest + host → [`LaunchPlan`]. Pure: no process, no file, no clock; the same input gives the same plan.

mod types;

use std::collections::BTreeMap;

pub use types::*;

use crate::manifest::{EnvName, Manifest, ManifestError, ManifestErrors, Slug};

/// Name of the demo's token.
pub const DEMO_TOKEN: &str = "DEMO_TOKEN";
/// Host that the demo's route names; the launch fills in `connect` and `ca`.
pub const DEMO_HOST: &str = "hello.demo.test";
/// Command of the demo provider, in the image's `PATH`.
pub const DEMO_COMMAND: &[&str] = &["bottle-demo"];

/// Facts about this host, gathered by the caller.
pub struct Host<'a> {
    /// The host's variables: `|name| std::env::var(name).ok()`.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The engine that was chosen, and why.
    pub engine: Engine,
    /// Images of the closure by name.
    pub images: BTreeMap<Slug, ImageFacts>,
}

/// What the operator asked for on the command line.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Instance name; `None`: the agent's name.
    pub slug: Option<Slug>,
    /// `-- CMD…`, replaces the agent's command; empty: no replacement.
    pub command: Vec<String>,
    /// `--env K=V`: answers to questions, and further guest variables.
    pub env: BTreeMap<EnvName, String>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No agent of that name.
    #[error("no agent {name}{}", hint.as_ref().map(|h| format!("\n  hint: {h}")).unwrap_or_default())]
    UnknownAgent {
        /// What was asked for, quoted and neutralised.
        name: String,
        /// Nearest or all names.
        hint: Option<String>,
    },
    /// The manifest does not fit this host (unset variable, unknown image, …).
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
}

/// Plans a launch of `agent`.
///
/// # Errors
/// No such agent, or the manifest does not fit this host; every fault is reported, not only the first.
pub fn plan(manifest: &Manifest, agent: &str, host: &Host<'_>, options: &Options) -> Result<LaunchPlan, PlanError> {
    let _ = (manifest, agent, host, options);
    Err(ManifestErrors::from(ManifestError::new(&crate::manifest::Location::built_in(), "", "not written yet", None)).into())
}

/// The plan for a person: aligned sections, nothing in it that could drive a terminal.
#[must_use]
pub fn render(plan: &LaunchPlan) -> String {
    let _ = plan;
    String::new()
}

/// What changed since `previous`: lines that start with `+ ` or `- `; empty when nothing did.
#[must_use]
pub fn diff(previous: &LaunchPlan, current: &LaunchPlan) -> Vec<String> {
    let _ = (previous, current);
    Vec::new()
}
