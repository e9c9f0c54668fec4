//! A process gives up what it does not need, before it handles anything from a guest.
//!
//! In order: [`begin`] first thing in `main`, then open what is needed, then [`seal`] before any
//! thread is started (Landlock and seccomp bind to the calling thread and its future children).
//! What the kernel lacks is left out and said in the [`Report`].

mod landlock;
mod process;
mod seccomp;
mod userns;

pub mod exec;
pub mod machine;

use std::fmt;
use std::path::PathBuf;

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The parent that was to be followed into death is gone already.
    #[error("parent process {0} is gone")]
    ParentGone(u32),
    /// A path that was to be granted cannot be opened.
    #[error("cannot grant {path}: {why}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The kernel refused a step.
    #[error("{step}: {why}")]
    Kernel {
        /// The step, such as `seccomp`.
        step: &'static str,
        /// What the kernel said.
        why: String,
    },
}

/// Files that stay reachable; everything else is closed, whatever the file modes say.
#[derive(Debug, Default, Clone)]
pub struct Grants {
    /// Read.
    pub ro: Vec<PathBuf>,
    /// Read and execute.
    pub rx: Vec<PathBuf>,
    /// Read, write, create, remove; device ioctls on a device.
    pub rw: Vec<PathBuf>,
    /// Whether a path that does not exist is left out rather than an error.
    pub skip_missing: bool,
}

/// What network a process keeps. Sockets that are open already are not affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// New outgoing internet connections; no TCP listening, no other socket family, no Unix
    /// sockets.
    Outgoing,
    /// New internet sockets, listening ones too; no other socket family, no Unix sockets.
    Inet,
    /// No new socket of any kind, Unix sockets included, and no new use for one that was inherited:
    /// it is neither connected nor bound. (`socketpair` stays: it reaches nobody.)
    Nothing,
    /// Not restricted.
    Unrestricted,
}

/// How far confinement went, for the log and for `bottle doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Landlock ABI in force, 0: none.
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

/// First step: no core dump, no debugger, no new privileges, private files, no inherited file
/// descriptors above 2 but `keep`; with `parent`, death when that process dies.
///
/// # Errors
/// [`ConfineError::ParentGone`] when the process that started this one is not `parent` any more.
pub fn begin(parent: Option<u32>, keep: &[i32]) -> Result<(), ConfineError> {
    process::close_fds_except(keep);
    process::harden()?;
    parent.map_or(Ok(()), process::die_with)
}

/// What a TLS client reads of a system: name lookup, randomness, CA certificates. Some of it is on
/// each.
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

/// Last step: file access, network and system calls. `may_exec` leaves execve to Landlock.
///
/// # Errors
/// A granted path that cannot be opened, or a kernel that refuses a filter it has.
pub fn seal(grants: &Grants, network: Network, may_exec: bool) -> Result<Report, ConfineError> {
    let landlock = landlock::restrict(grants, network)?;
    let seccomp = seccomp::install(network, may_exec)?;
    Ok(Report { landlock, seccomp, netns: false })
}
