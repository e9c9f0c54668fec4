//! What a stream is for: the header that its opener sends.
//!
//! Two enums, so that the host has no code that could parse anything else from a guest.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// As `argv[0]`: the guest agent's own binary, which is not in the image's file system.
pub const SELF: &str = "@bottle-guest";

/// What the host asks of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "kebab-case")]
pub enum HostOpen {
    /// Sets up the started guest. The answer is a [`Reply`].
    Configure(GuestConfig),
    /// Runs a process. Frames of [`crate::exec`] follow both ways.
    Exec(ExecRequest),
    /// A tar stream follows, then end of stream. The answer is a [`Reply`] of
    /// [`crate::copy::CopyReport`].
    CopyIn(CopyInRequest),
    /// Frames of [`crate::copy`] come back.
    CopyOut(CopyOutRequest),
    /// Stops every process, writes everything to disk and powers off. The answer is a [`Reply`]
    /// before the power goes.
    Shutdown,
}

/// All that a guest may ask of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "kebab-case", deny_unknown_fields)]
pub enum GuestOpen {
    /// A raw byte stream to one of the bundle's sockets.
    Endpoint {
        /// Which one.
        name: EndpointName,
    },
}

/// A daemon of the bundle that the guest can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointName {
    /// The HTTP proxy.
    Egress,
    /// The git server.
    GitGate,
    /// The MCP server.
    Supervise,
}

impl EndpointName {
    /// Every endpoint.
    pub const ALL: [Self; 3] = [Self::Egress, Self::GitGate, Self::Supervise];

    /// The name in arguments, file names and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::GitGate => "git-gate",
            Self::Supervise => "supervise",
        }
    }

    /// The fixed port on the guest's 127.0.0.1.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Egress => 9099,
            Self::GitGate => 9420,
            Self::Supervise => 9100,
        }
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for EndpointName {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|n| n.as_str() == s)
            .ok_or_else(|| format!("no such endpoint: {s} (egress, git-gate, supervise)"))
    }
}

/// One listener of the guest's relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where its connections go.
    pub name: EndpointName,
    /// Port on the guest's 127.0.0.1.
    pub port: u16,
}

/// The state of a guest that differs between launches. Applied in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Host name; also goes to /etc/hosts.
    pub hostname: String,
    /// Wall clock, milliseconds since 1970; 0 leaves the clock.
    pub time_unix_ms: u64,
    /// Relay listeners.
    pub endpoints: Vec<Endpoint>,
    /// Directories to make, in order, parents included.
    #[serde(default)]
    pub mkdirs: Vec<MakeDir>,
    /// Certificate, as PEM, of an authority that every TLS client in the guest is to trust; see
    /// [`crate::trust`].
    #[serde(default)]
    pub authority: Option<String>,
    /// What git is told on top of the image's own settings, for every user.
    #[serde(default)]
    pub git_settings: String,
}

/// One directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeDir {
    /// Absolute path.
    pub path: String,
    /// Permission bits of the last component, for example 0o755.
    pub mode: u32,
    /// Owner of every component that is made.
    pub uid: u32,
    /// Group of every component that is made.
    pub gid: u32,
}

/// One process to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments. The program is looked up in `env`'s PATH; [`SELF`] is the guest
    /// agent.
    pub argv: Vec<String>,
    /// The whole environment: nothing is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute path; none is `/`.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User id.
    pub uid: u32,
    /// Primary group id; the others come from the guest's /etc/group.
    pub gid: u32,
    /// A terminal of this size on stdin, stdout and stderr; none is pipes.
    #[serde(default)]
    pub tty: Option<TtySize>,
    /// Whether stdin frames follow; if not, stdin is /dev/null (ignored with a terminal).
    #[serde(default)]
    pub stdin: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// Where a tar stream goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyInRequest {
    /// Absolute path of a directory, made when it is missing. Nothing is written outside of it.
    pub dest_dir: String,
    /// Owner of everything; none keeps the tar's.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group of everything; none keeps the tar's.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// What to send back as tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOutRequest {
    /// Absolute path of a file or directory. The tar's names start with its last component.
    pub path: String,
}

/// The answer to everything that is not a stream of frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<T> {
    /// Done.
    Ok(T),
    /// Not done, and why: one line, from the guest, hence not to be trusted or printed raw.
    Error(String),
}
