//! The header with which an end opens a stream: a request.
//!
//! There is one enum for each direction, so that the host has no code that could parse anything
//! else from a guest.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// As `argv[0]`, this means the guest's own binary, which is not in the image's file system.
pub const SELF: &str = "@bottle-guest";

/// A request of the host to a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "kebab-case")]
pub enum HostOpen {
    /// Configures a guest that has booted. The guest sends a [`Reply`].
    Configure(GuestConfig),
    /// Runs a process. Both ends then send frames of [`crate::exec`].
    Exec(ExecRequest),
    /// Unpacks files. The host then sends a tar stream and ends the stream; the guest sends a
    /// [`Reply`] with a [`crate::copy::CopyReport`].
    CopyIn(CopyInRequest),
    /// Packs files. The guest sends frames of [`crate::copy`]. No command uses this yet; it is for
    /// `bottle cp`.
    CopyOut(CopyOutRequest),
    /// Stops every process, flushes the disk and powers off. The guest sends a [`Reply`] before the
    /// power-off.
    Shutdown,
}

/// The only request of a guest to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "kebab-case", deny_unknown_fields)]
pub enum GuestOpen {
    /// Opens a raw byte stream to one of the bundle's sockets.
    Endpoint {
        /// Name of the daemon.
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

/// A listener in the guest that leads to a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The daemon that gets its connections.
    pub name: EndpointName,
    /// Port on the guest's 127.0.0.1.
    pub port: u16,
}

/// The configuration of a guest that differs between launches. It is applied in the order of the
/// fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Host name, which is also written to /etc/hosts.
    pub hostname: String,
    /// Time of day in milliseconds since 1970; 0 leaves the clock as it is.
    pub time_unix_ms: u64,
    /// Listeners that lead to daemons.
    pub endpoints: Vec<Endpoint>,
    /// Directories to make, in this order, with their parents.
    #[serde(default)]
    pub mkdirs: Vec<MakeDir>,
    /// Certificate (PEM) of an authority that every TLS client in the guest must trust; see
    /// [`crate::trust`].
    #[serde(default)]
    pub authority: Option<String>,
    /// git configuration for all users, appended to the image's own.
    #[serde(default)]
    pub git_settings: String,
}

/// A directory to make.
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

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments. The program is looked up in `env`'s PATH; [`SELF`] is the guest
    /// agent.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory, an absolute path; `/` when absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User id.
    pub uid: u32,
    /// Primary group id. The other groups come from the guest's /etc/group.
    pub gid: u32,
    /// Size of a terminal on stdin, stdout and stderr; pipes when absent.
    #[serde(default)]
    pub tty: Option<TtySize>,
    /// Whether the host sends stdin frames; if not, stdin is /dev/null. Ignored with a terminal.
    #[serde(default)]
    pub stdin: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Number of lines.
    pub rows: u16,
    /// Characters per line.
    pub cols: u16,
}

/// Where to unpack a tar stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyInRequest {
    /// Absolute path of a directory, which is made when it is missing. Nothing is written outside
    /// of it.
    pub dest_dir: String,
    /// Owner of everything; absent: the tar's owners.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group of everything; absent: the tar's groups.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// What to pack as a tar stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOutRequest {
    /// Absolute path of a file or directory. The names in the tar start with its last component.
    pub path: String,
}

/// The reply to every request that has no frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<T> {
    /// The request succeeded.
    Ok(T),
    /// The request failed, and why, in one line. The text is the guest's: do not print it raw.
    Error(String),
}
