//! What a confined process keeps, and how confinement fails.

use std::fmt;
use std::path::PathBuf;

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The parent with which this process was to die has already ended.
    #[error("parent process {0} is gone")]
    ParentGone(u32),
    /// A path that was to be granted cannot be opened.
    #[error("cannot grant {path}: {why}")]
    Path {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        why: String,
    },
    /// The kernel refused a step.
    #[error("{step}: {why}")]
    Kernel {
        /// The step, such as `seccomp`.
        step: &'static str,
        /// The kernel's reason.
        why: String,
    },
}

/// Files that stay reachable. All others are out of reach, whatever their modes allow.
#[derive(Debug, Default, Clone)]
pub struct Grants {
    /// May be read.
    pub ro: Vec<PathBuf>,
    /// May be read and executed.
    pub rx: Vec<PathBuf>,
    /// May be read and written, files in them created and removed; devices take ioctls.
    pub rw: Vec<PathBuf>,
    /// Whether a path that does not exist is left out, instead of being an error.
    pub skip_missing: bool,
}

/// The network that a process keeps. Sockets that are already open are not affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// New outgoing internet connections; no TCP listening, no other socket family, no Unix
    /// sockets.
    Outgoing,
    /// New internet sockets, also listening ones; no other socket family, no Unix sockets.
    Inet,
    /// No new socket of any kind, Unix sockets included; inherited ones can be neither connected nor
    /// bound. (`socketpair` stays allowed, because it reaches nobody.)
    Nothing,
    /// No restriction.
    Unrestricted,
}

/// How far this kernel could confine the process, for the log and for `bottle doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Landlock ABI in force; 0 for none.
    pub landlock: u32,
    /// Whether the system call filter is in force.
    pub seccomp: bool,
    /// Whether the process has a network namespace of its own.
    pub netns: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.landlock {
            0 => f.write_str("no landlock")?,
            abi => write!(f, "landlock abi {abi}")?,
        }
        f.write_str(if self.seccomp { ", seccomp" } else { ", no seccomp" })?;
        if self.netns { f.write_str(", own network namespace") } else { Ok(()) }
    }
}

/// Files that a TLS client reads: name lookup, randomness, CA certificates. No system has all of
/// them.
#[must_use]
pub fn tls_client_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = [
        // name lookup; resolv.conf is often a link into /run
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/nsswitch.conf",
        "/etc/localtime",
        // randomness, where a static program cannot find getrandom(2)'s wrapper
        "/dev/urandom",
        // CA certificates of Debian, Fedora, SUSE, Arch, Alpine and NixOS
        "/etc/ssl",
        "/etc/pki",
        "/etc/ca-certificates",
        "/etc/static/ssl",
        "/usr/share/ca-certificates",
        "/usr/local/share/ca-certificates",
        "/usr/share/pki",
        "/var/lib/ca-certificates",
        // the files themselves, where they are links to somewhere else
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/ssl/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
        "/etc/pki/tls/certs/ca-bundle.crt",
    ]
    .iter()
    .map(PathBuf::from)
    .collect();
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        files.extend(
            std::env::var_os(name)
                .iter()
                .flat_map(std::env::split_paths)
                .filter(|p| p.is_absolute()),
        );
    }
    files
}
