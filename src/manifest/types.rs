//! The manifest as the rest of the program sees it: every text checked, every path resolved, every
//! default filled in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use bottle_policy::{Forge, GateUrl, Push, Route, Stale, TokenName, UpstreamName};
use serde::{Deserialize, Serialize};

use super::{Bytes, EnvName, Interval, Location, Slug};
use crate::provider::Auth;

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

/// Who makes the agent, and so how it is started, configured and authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The table of live checks that shows what a bottle is.
    Demo,
    /// Any command.
    Command,
    /// Claude Code.
    Claude,
    /// Codex.
    Codex,
}

impl Provider {
    /// All providers, in the order of messages.
    pub const ALL: [Self; 4] = [Self::Demo, Self::Command, Self::Claude, Self::Codex];

    /// The word for it in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Command => "command",
            Self::Claude => "claude",
            Self::Codex => "codex",
        }
    }
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
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

/// Size of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Virtual CPUs, 1 to 64.
    pub cpus: u8,
    /// Guest memory in bytes, whole MiB.
    pub memory: Bytes,
    /// Private writable disk in bytes, whole MiB.
    pub disk: Bytes,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 2, memory: Bytes::mib(2048), disk: Bytes::mib(10 * 1024) }
    }
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

/// Where the host finds a token's value at launch. Values are never kept here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenSource {
    /// A variable of the host.
    Env(EnvName),
    /// A file of the host, whose content without the final newline is the value.
    File {
        /// Its absolute path.
        path: PathBuf,
        /// After this long it is read again; `None`: only when an upstream turns the value down.
        #[serde(default, rename = "refresh_s", skip_serializing_if = "Option::is_none")]
        refresh: Option<Interval>,
    },
    /// A host command, whose output without the final newline is the value.
    Command {
        /// Program and arguments; no shell reads them.
        argv: Vec<String>,
        /// After this long it is run again; `None`: only when an upstream turns the value down.
        #[serde(default, rename = "refresh_s", skip_serializing_if = "Option::is_none")]
        refresh: Option<Interval>,
    },
    /// The host's own login, as the provider's program keeps it.
    Login {
        /// Whose.
        provider: Provider,
        /// Its absolute path.
        file: PathBuf,
        /// Where it is renewed, `https://…`; `None`: at the vendor's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
        /// PEM of further CAs that the server there may be signed by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca: Option<String>,
    },
    /// Made by the launch itself from random bytes (the demo's).
    Generated,
}

impl TokenSource {
    /// Whether asking again can give another value while a bottle runs: a process's own variables
    /// do not change.
    #[must_use]
    pub const fn refreshable(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Command { .. } | Self::Login { .. })
    }

    /// After how long a value is asked for again.
    #[must_use]
    pub const fn refresh(&self) -> Option<Interval> {
        match self {
            Self::File { refresh, .. } | Self::Command { refresh, .. } => *refresh,
            Self::Env(_) | Self::Login { .. } | Self::Generated => None,
        }
    }
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

/// Settings of one provider in one bottle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSettings {
    /// Where they are.
    pub at: Location,
    /// Model to ask for; `None`: the provider's default.
    pub model: Option<String>,
    /// API endpoint other than the vendor's, `https://…`.
    pub base_url: Option<String>,
    /// The credential; `None`: the provider's usual variable.
    pub token: Option<TokenSource>,
    /// Use the host's own login instead of a token (read and refreshed on the host only).
    pub forward_host_credentials: bool,
    /// Where that login is renewed, `https://…`; `None`: at the vendor's.
    pub login_url: Option<String>,
    /// As what the credential goes out; `None`: what its variable's name says, else an API key.
    pub auth: Option<Auth>,
    /// Connect here instead of resolving the API's host.
    pub connect: Option<SocketAddr>,
    /// PEM of further CAs that the API may be signed by.
    pub ca: Option<String>,
    /// Keep the agent's own permission questions although it runs in a bottle.
    pub ask: bool,
}
