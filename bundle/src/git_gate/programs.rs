//! The programs that git-gate runs, and the files of the system that they need.

use std::path::PathBuf;

/// Absolute paths of the programs. Nothing is looked up in a PATH.
#[derive(Debug)]
pub struct Programs {
    /// `git`.
    pub git: PathBuf,
    /// The directory of git's own programs (`git --exec-path`).
    pub exec_path: PathBuf,
    /// OpenSSH's client.
    pub ssh: Option<PathBuf>,
    /// gitleaks.
    pub gitleaks: Option<PathBuf>,
    /// `bottle-bundle`, whose `confine` starts every child. `None` only in tests of this crate.
    pub launcher: Option<PathBuf>,
    /// Directories of libraries, in addition to the system's.
    pub libs: Vec<PathBuf>,
    /// An empty directory that is the home of every child.
    pub home: PathBuf,
}

/// The system's directories of libraries and loaders.
const LIBS: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store"];

/// Files that name lookup and TLS read.
pub const SYSTEM_FILES: &[&str] = &[
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/static/ssl",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

impl Programs {
    /// Paths that must be readable and executable for the programs to run.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut all = vec![self.git.clone(), self.exec_path.clone()];
        all.extend(
            self.ssh.iter().chain(&self.gitleaks).chain(&self.launcher).chain(&self.libs).cloned(),
        );
        all.extend(LIBS.iter().map(PathBuf::from));
        all.retain(|p| p.exists());
        all
    }
}
