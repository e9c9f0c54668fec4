//! The manifest as the rest of the program sees it: every text checked, every path resolved, every
//! default filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bottle_policy::{Forge, GateUrl, Push, Route, Stale, TokenName, UpstreamName};
use serde::{Deserialize, Serialize};

use crate::provider::{Provider, ProviderSettings, Repository, TokenSource};
use crate::values::{EnvName, Interval, Location, Resources, Slug};

/// A whole manifest: what `bottle.toml` and `agents/*.md` say, and the built-in agents they do not
/// redefine.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The file it came from; `None`: only built-ins.
    pub file: Option<PathBuf>,
    /// The directory that relative paths are relative to; `None`: only built-ins.
    pub dir: Option<PathBuf>,
    /// Agents by name.
    pub agents: BTreeMap<Slug, Agent>,
    /// Bottles by name; each agent's `bottle` is one of them.
    pub bottles: BTreeMap<Slug, Bottle>,
}

/// What runs in a bottle.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Where it is defined.
    pub at: Location,
    /// The bottle it runs in.
    pub bottle: Slug,
    /// What kind of agent it is.
    pub provider: Provider,
    /// System prompt; `None`: none.
    pub prompt: Option<String>,
    /// Skills that the agent gets.
    pub skills: Vec<Skill>,
    /// Command line for provider `command`; empty for the others.
    pub command: Vec<String>,
}

/// A directory with a `SKILL.md`, found when the manifest was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skill {
    /// Name of the skill and of its directory.
    pub name: Slug,
    /// The directory on the host, symbolic links resolved.
    pub dir: PathBuf,
}

/// A machine, what it may reach, and what is put into it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bottle {
    /// Where it is defined.
    pub at: Location,
    /// Image name in the closure; `None`: the provider's own.
    pub image: Option<(Slug, Location)>,
    /// Guest environment.
    pub env: BTreeMap<EnvName, EnvEntry>,
    /// Whether the agent may propose changes to the operator.
    pub supervise: Option<Supervise>,
    /// What of the host's project is put into the guest.
    pub workspace: Workspace,
    /// Size of the machine.
    pub resources: Resources,
    /// Routes, in order; the first match decides.
    pub egress: Vec<EgressRoute>,
    /// Git upstreams.
    pub git: Vec<GitUpstream>,
    /// Which daemons stand between the bottle and its routes.
    pub bundle_egress: EgressChain,
    /// Settings by provider.
    pub provider: BTreeMap<Provider, ProviderSettings>,
}

/// That the agent may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervise {
    /// Where it is said.
    pub at: Location,
    /// How.
    pub asking: Asking,
}

/// How the operator is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asking {
    /// Command that tells the operator of a proposal; empty: none. It gets a title and a line as
    /// two more arguments.
    pub notify: Vec<String>,
    /// How long a proposal waits.
    pub expires: Option<Interval>,
}

/// One entry of a bottle's `env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvEntry {
    /// Where its value is written.
    pub at: Location,
    /// What it says.
    pub value: EnvValue,
}

/// Where a guest variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// `?question`: the operator is asked at launch.
    Ask(String),
    /// Text with `${HOST_VAR}` parts; a literal is one text part.
    Template(Vec<EnvPart>),
}

/// A piece of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvPart {
    /// Literal text.
    Text(String),
    /// The value of a variable of the host, which must be set.
    HostVar(EnvName),
}

/// What of the host's project is put into the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// How.
    pub mode: WorkspaceMode,
    /// The host's directory (absolute, inside the manifest's); `None` with mode `none`.
    pub path: Option<PathBuf>,
    /// Where it is asked for; `None`: the default.
    pub at: Option<Location>,
}

/// How the guest gets the project's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceMode {
    /// A filtered snapshot of the directory.
    Copy,
    /// A clone through git-gate.
    Clone,
    /// An empty directory.
    None,
}

/// A route, and where its token comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct EgressRoute {
    /// Where it is defined.
    pub at: Location,
    /// The route, complete.
    pub route: Route,
    /// The injected token's source; `Some` exactly when `route.inject` is.
    pub token: Option<TokenSource>,
}

/// The daemons between a bottle and its routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EgressChain {
    /// Our own egress daemon.
    #[default]
    #[serde(rename = "bottle")]
    Bottle,
    /// mitmproxy with our addon.
    #[serde(rename = "mitmproxy")]
    Mitmproxy,
    /// mitmproxy with our addon, and pipelock behind it.
    #[serde(rename = "mitmproxy+pipelock")]
    MitmproxyPipelock,
}

impl EgressChain {
    /// All chains, in the order of messages.
    pub const ALL: [Self; 3] = [Self::Bottle, Self::Mitmproxy, Self::MitmproxyPipelock];

    /// The word for it in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bottle => "bottle",
            Self::Mitmproxy => "mitmproxy",
            Self::MitmproxyPipelock => "mitmproxy+pipelock",
        }
    }
}

impl std::fmt::Display for EgressChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A repository that the agent may use through git-gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GitUpstream {
    /// Where it is defined.
    pub at: Location,
    /// What it is.
    pub spec: GitSpec,
}

/// A repository, what may be pushed to it, and the host's means to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitSpec {
    /// Name, unique in a bottle.
    pub name: UpstreamName,
    /// The upstream's own URL, which the agent keeps using.
    pub url: GateUrl,
    /// ssh private key on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_file: Option<PathBuf>,
    /// A key that the forge makes known for this launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy_key: Option<DeployKey>,
    /// Pinned host keys (a known_hosts file on the host).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts: Option<PathBuf>,
    /// Token for an https upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<(TokenName, TokenSource)>,
    /// PEM of the CAs of an https upstream; `None`: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// ssh private key of the host, with which a note on each push is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attest_key: Option<PathBuf>,
    /// What a fetch gets while the upstream cannot be reached.
    pub stale: Stale,
    /// What the agent may push; `None`: nothing.
    pub push: Option<Push>,
}

impl From<Repository> for GitSpec {
    fn from(Repository { name, url, push }: Repository) -> Self {
        Self {
            name,
            url,
            identity_file: None,
            deploy_key: None,
            known_hosts: None,
            token: None,
            ca_file: None,
            attest_key: None,
            stale: Stale::default(),
            push: Some(push),
        }
    }
}

/// A deploy key that is registered at launch and revoked at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployKey {
    /// Whose API.
    pub forge: Forge,
    /// Its base, `https://…`.
    pub api: String,
    /// `owner/name`.
    pub repo: String,
    /// Token that may manage the repository's keys.
    pub token: (TokenName, TokenSource),
    /// PEM of the API's CAs, beside the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Whether the key may push.
    pub write: bool,
}
