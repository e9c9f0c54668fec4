//! The plan's document.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use bottle_channel::EndpointName as Daemon;
use bottle_policy::{Policy, TokenName};
use serde::{Deserialize, Serialize};

use crate::manifest::{
    Asking, EgressChain, EnvName, GitSpec, Provider, Resources, Skill, Slug, TokenSource,
    WorkspaceMode,
};
use crate::provider::PlannedProvider;
use crate::values::Guest;

/// Format version of [`LaunchPlan`].
pub const VERSION: u32 = 1;

/// All that a launch will do, decided before anything is done. No token value is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// Format version, [`VERSION`].
    pub version: u32,
    /// A key that earlier versions wrote; it is read and ignored.
    #[serde(default, skip_serializing)]
    pub unsupported: serde::de::IgnoredAny,
    /// Agent name.
    pub agent: Slug,
    /// Bottle definition's name.
    pub bottle: Slug,
    /// Name of this instance: state directory, `bottle list`.
    pub slug: Slug,
    /// Kind of agent.
    pub provider: Provider,
    /// What the settings of an agent of that kind are made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<PlannedProvider>,
    /// Guest variables that the provider sets; those of `env` win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provider_env: BTreeMap<String, String>,
    /// The manifest it came from; `None`: built in.
    pub manifest: Option<PathBuf>,
    /// Command line in the guest: the operator's (`-- CMD…`), the manifest's or the provider's.
    /// Never empty.
    pub command: Vec<String>,
    /// System prompt.
    pub prompt: Option<PlannedPrompt>,
    /// Skills.
    pub skills: Vec<Skill>,
    /// Image.
    pub image: PlannedImage,
    /// VM engine and why it.
    pub engine: Engine,
    /// Size of the machine.
    pub resources: Resources,
    /// Guest variables whose values are known; what the launch itself sets (proxy, trust stores) is
    /// not among them.
    pub env: BTreeMap<EnvName, String>,
    /// Guest variables that the operator is asked for (those with an answer in `Options`
    /// are in `env`).
    pub questions: Vec<Question>,
    /// Bundle daemons to start, in order.
    pub daemons: Vec<Daemon>,
    /// What the bottle may reach.
    pub policy: Policy,
    /// Identity of what the bottle may reach: `policy.digest()`, and made from it for another chain
    /// than ours.
    pub policy_digest: String,
    /// Which daemons enforce the policy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bundle_egress: EgressChain,
    /// Where each token that the policy (or git) names comes from; never a value.
    pub tokens: BTreeMap<TokenName, TokenSource>,
    /// Git upstreams.
    pub git: Vec<GitSpec>,
    /// Whether the agent may propose changes.
    pub supervise: bool,
    /// How the operator is asked.
    #[serde(default, skip_serializing_if = "is_default_asking")]
    pub asking: Asking,
    /// Author of the agent's commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Which of the project's files the guest gets.
    pub workspace: PlannedWorkspace,
    /// The guest's fixed loopback ports, one a daemon.
    pub endpoints: Vec<Endpoint>,
    /// What the operator said on the command line instead of the manifest.
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    pub given: Overrides,
    /// What the operator should know; a launch goes on.
    pub warnings: Vec<String>,
}

fn is_default_asking(asking: &Asking) -> bool {
    *asking == Asking::default()
}

fn is_default(chain: &EgressChain) -> bool {
    *chain == EgressChain::default()
}

/// What the command line overrides of the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Names of guest variables that `--env` or an answer set. A remembered plan has no value for
    /// them.
    pub env: BTreeSet<EnvName>,
    /// Whether the command is the operator's.
    pub command: bool,
}

impl Overrides {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The author of the agent's commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// `user.name`, one line.
    pub name: String,
    /// `user.email`, one line.
    pub email: String,
}

/// A system prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedPrompt {
    /// SHA-256 of `text`, lower hex.
    pub sha256: String,
    /// Length of `text` in bytes.
    pub bytes: u64,
    /// The prompt.
    pub text: String,
}

/// An image of the closure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedImage {
    /// Name in the closure.
    pub name: Slug,
    /// What the closure says about it.
    #[serde(flatten)]
    pub facts: ImageFacts,
}

/// What the closure says about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// The image file (store path).
    pub image: PathBuf,
    /// The agent's account in it.
    #[serde(flatten)]
    pub guest: Guest,
}

/// The VM engine that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// `qemu` or `smolvm`.
    pub name: String,
    /// Why, for the operator.
    pub reason: String,
}

/// A question to the operator, whose answer becomes a guest variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The variable.
    pub name: EnvName,
    /// The manifest's text; neutralise it before printing.
    pub question: String,
}

/// A loopback port of the guest that reaches a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The daemon.
    pub daemon: Daemon,
    /// The guest's port on 127.0.0.1.
    pub port: u16,
}

/// Which of the project's files the guest gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedWorkspace {
    /// How.
    pub mode: WorkspaceMode,
    /// The host's directory; `None` with mode `none`.
    pub path: Option<PathBuf>,
}
