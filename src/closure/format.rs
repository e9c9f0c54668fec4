//! The format of `closure.json`, version 1.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::values::Guest;

/// The format of `closure.json`, version 1.
#[derive(Debug, Clone, Deserialize)]
pub struct Closure {
    /// Format version, 1.
    pub version: u32,
    /// The Nix system it is for, such as `x86_64-linux`.
    pub system: String,
    /// The sidecar daemons.
    pub bundle: Bundle,
    /// `bottle-guest`, which every image holds.
    pub guest: Option<StoreFile>,
    /// Host tools.
    pub tools: Tools,
    /// Engines by name.
    pub engines: Engines,
    /// Agent images by name.
    pub images: BTreeMap<String, Image>,
    /// Images that are built when a launch first needs them.
    #[serde(default, rename = "later")]
    pub deferred: BTreeMap<String, DeferredImage>,
    /// What builds them, from `later.json`.
    #[serde(skip)]
    pub(super) realise: Option<Realise>,
}

/// A file of the closure.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
pub struct StoreFile {
    /// Absolute path.
    pub path: Utf8PathBuf,
    /// SHA-256 of its content, lower hex.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The bundle's files.
#[derive(Debug, Clone, Deserialize)]
pub struct Bundle {
    /// `bottle-bundle`.
    pub binary: StoreFile,
}

/// Host tools.
#[derive(Debug, Clone, Deserialize)]
pub struct Tools {
    /// `mke2fs`, which formats a bottle's disk.
    pub mke2fs: StoreFile,
    /// `git`, whose own programs are in `../lib/git-core`.
    pub git: StoreFile,
    /// OpenSSH's client.
    pub ssh: StoreFile,
    /// `gitleaks`.
    pub gitleaks: StoreFile,
}

/// The engines in the closure.
#[derive(Debug, Clone, Deserialize)]
pub struct Engines {
    /// QEMU.
    pub qemu: Qemu,
    /// smolvm, where there is one for the system.
    pub smolvm: Option<Smolvm>,
}

/// smolvm's files, all below one store path.
#[derive(Debug, Clone, Deserialize)]
pub struct Smolvm {
    /// Its version.
    pub version: String,
    /// The store path.
    pub root: Utf8PathBuf,
    /// The command line.
    pub binary: StoreFile,
    /// Directory of libkrun and the guest's kernel.
    pub libraries: Utf8PathBuf,
    /// Root file system of the guest's own agent.
    pub agent: Utf8PathBuf,
    /// Every other regular file in `root`.
    pub files: Vec<StoreFile>,
}

impl Smolvm {
    /// The directory of the programs that it starts.
    #[must_use]
    pub fn path(&self) -> Utf8PathBuf {
        self.root.join("bin")
    }
}

/// QEMU's files.
#[derive(Debug, Clone, Deserialize)]
pub struct Qemu {
    /// Its version.
    pub version: String,
    /// `qemu-system-x86_64`.
    pub binary: StoreFile,
    /// Directory of firmware images (`-L`).
    pub firmware: Utf8PathBuf,
    /// The firmware images, which run in the guest before its kernel.
    pub firmware_files: Vec<StoreFile>,
    /// Uncompressed kernel with a PVH entry.
    pub kernel: StoreFile,
    /// Initial RAM disk whose /init is `bottle-guest`.
    pub initrd: StoreFile,
}

/// An agent image.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
pub struct Image {
    /// Root file system, for QEMU.
    pub erofs: Option<StoreFile>,
    /// Root file system as a `.smolmachine` file, for smolvm.
    pub smolmachine: Option<StoreFile>,
    /// The agent's account in it.
    #[serde(flatten)]
    pub guest: Guest,
}

/// How an engine's image is built.
#[derive(Debug, Clone, Deserialize)]
pub struct Build {
    /// The derivation, in the store; `later.json` names it.
    #[serde(skip)]
    pub drv: Option<Utf8PathBuf>,
    /// What it builds: a directory with `image.json`, an [`Image`].
    pub result: Utf8PathBuf,
    /// The path that the file which the engine boots will have.
    pub file: Utf8PathBuf,
}

/// An image that is not built yet: how to build it, and the facts that a plan needs.
#[derive(Debug, Clone, Deserialize)]
pub struct DeferredImage {
    /// How it is built, by engine.
    pub builds: BTreeMap<String, Build>,
    /// Groups of locked sources that the build needs; a path is a team's own lock file.
    pub sources: Vec<String>,
    /// About the most that the build downloads, MB, where that is known.
    pub download_mb: Option<u32>,
    /// The agent's account in it.
    #[serde(flatten)]
    pub guest: Guest,
}

/// The program that builds deferred images, `nix/realise`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Realise {
    pub(super) program: Utf8PathBuf,
}

impl Image {
    /// The file that `engine` boots.
    ///
    /// # Errors
    /// `Engine` where the image is not there for it.
    pub fn of(&self, engine: &str) -> Result<&StoreFile> {
        let (file, other) =
            if engine == "smolvm" { (&self.smolmachine, "qemu") } else { (&self.erofs, "smolvm") };
        file.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Engine, format!("there is no such image for {engine}"))
                .hint(format!("--engine {other}"))
        })
    }
}
