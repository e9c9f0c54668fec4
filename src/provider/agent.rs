//! What an agent is to the rest of the program: one static [`Agent`] in a file of its own. The
//! types that name each other are together here: agent, settings, token source, contribution.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;

use bottle_policy::{GateUrl, Push, Route, TokenName, UpstreamName};
use serde::{Deserialize, Serialize, Serializer};

use super::login_layout::{Auth, LoginFacts, LoginLayout};
use super::settings::{GuestFile, PlannedProvider, SettingsInputs};
use crate::values::{EnvName, Interval, Location, Resources};

/// An agent program: how it is started, configured and authenticated. Every field has to be given,
/// so that a new agent cannot inherit another one's behaviour by accident.
pub struct Agent {
    /// The word for it in manifests (`provider = "NAME"`).
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// The image of bottles that name none.
    pub image: &'static str,
    /// Set when the agent works without a manifest, under its own name.
    pub built_in: Option<BuiltIn>,
    /// Whether the manifest says its command line (`command = […]`).
    pub takes_command: bool,
    /// Whether a bottle may have settings for it (`[bottles.X.provider.NAME]`).
    pub has_settings: bool,
    /// Whether it has a conversation to resume, so that its disk is kept at an orderly end.
    pub resumable: bool,
    /// Whether it resumes its conversation with the operator's own arguments too.
    pub resumes_with_arguments: bool,
    /// Whether its commits are made in the operator's name.
    pub commits_as_operator: bool,
    /// Whether the launch runs the demo's local upstream for it.
    pub needs_demo_upstream: bool,
    /// Directory that it reads the user's skills from, below its home.
    pub skills_dir: &'static str,
    /// Texts of the questions that it asks at a first start without settings. A launch that sees
    /// one of them on the terminal warns that the settings did not fit.
    pub first_run_prompts: &'static [&'static str],
    /// Where its vendor's program keeps a login on the host.
    pub login: Option<LoginLayout>,
    /// What it adds to a plan.
    pub contribution: fn(&Inputs<'_>) -> Contribution,
    /// Whether a command line that begins with this word is an argument for the agent's program, as
    /// `-p` is, and not a program of its own.
    pub is_argument: fn(&str) -> bool,
    /// The files of its settings.
    pub settings_files: fn(&SettingsInputs<'_>) -> Vec<GuestFile>,
    /// The real command line in the place of the planned one, where that needs facts that only the
    /// launch has.
    pub live_command: Option<fn(&LiveFacts) -> Vec<String>>,
}

/// An agent that works without a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltIn {
    /// Size of its machine.
    pub resources: Resources,
    /// Whether it gets a copy of the project's directory.
    pub copies_workspace: bool,
}

/// A registered agent. Only the registry makes one, so that its name is always known.
#[derive(Clone, Copy)]
pub struct Provider(pub(super) &'static Agent);

impl Deref for Provider {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        self.0
    }
}

impl Provider {
    /// The word for it in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0.name
    }

    /// The agent itself, for as long as the program runs.
    #[must_use]
    pub const fn get(self) -> &'static Agent {
        self.0
    }

    /// The command that makes or renews its login on this host; empty when it keeps none.
    #[must_use]
    pub fn login_command(self) -> &'static str {
        self.0.login.as_ref().map_or("", |login| login.command)
    }
}

impl PartialEq for Provider {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Provider {}

impl PartialOrd for Provider {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Provider {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Provider {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// An agent's part of a plan.
#[derive(Debug, Default)]
pub struct Contribution {
    /// Routes, after the manifest's own.
    pub routes: Vec<Route>,
    /// Where their tokens come from.
    pub tokens: BTreeMap<TokenName, TokenSource>,
    /// A repository, after the manifest's own.
    pub repository: Option<Repository>,
    /// Guest variables; the manifest's win.
    pub env: BTreeMap<String, String>,
    /// Command line, where the agent and not the manifest says it.
    pub command: Vec<String>,
    /// What the operator's own arguments are added to; empty: `command`.
    pub program: Vec<String>,
    /// What the guest's settings are made of.
    pub settings: Option<PlannedProvider>,
}

/// A repository without credentials that an agent brings along.
#[derive(Debug)]
pub struct Repository {
    /// Its name in git-gate.
    pub name: UpstreamName,
    /// Its URL.
    pub url: GateUrl,
    /// What may be pushed to it.
    pub push: Push,
}

/// What a contribution is made from.
pub struct Inputs<'a> {
    /// The bottle's settings for this agent.
    pub settings: Option<&'a ProviderSettings>,
    /// The prompt's file in the guest, when there is a prompt.
    pub prompt: Option<&'a str>,
    /// Keep the agent's own permission prompts.
    pub ask: bool,
    /// Resume the previous conversation.
    pub resume: bool,
    /// Whether a variable of the host is set and not empty.
    pub is_set: &'a dyn Fn(&str) -> bool,
    /// The host's own login, where it is to be used.
    pub login: Option<&'a LoginFacts>,
}

/// What only a running launch knows.
#[derive(Debug)]
pub struct LiveFacts {
    /// The host's kernel release.
    pub host_kernel: String,
    /// Port of the canary on the host's loopback.
    pub canary_port: u16,
}

/// Settings of one agent in one bottle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSettings {
    /// Where they are.
    pub at: Location,
    /// Model to ask for; `None`: the agent's default.
    pub model: Option<String>,
    /// API endpoint other than the vendor's, `https://…`.
    pub base_url: Option<String>,
    /// The credential; `None`: the agent's usual variable.
    pub token: Option<TokenSource>,
    /// Use the host's own login instead of a token (read and refreshed on the host only).
    pub forward_host_credentials: bool,
    /// Where that login is renewed, `https://…`; `None`: at the vendor's.
    pub login_url: Option<String>,
    /// How the credential is sent; `None`: as its variable's name says, else as an API key.
    pub auth: Option<Auth>,
    /// Connect here instead of resolving the API's host.
    pub connect: Option<SocketAddr>,
    /// PEM of further CAs that the API may be signed by.
    pub ca: Option<String>,
    /// Keep the agent's own permission prompts although it runs in a bottle.
    pub ask: bool,
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
