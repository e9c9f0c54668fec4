//! The store paths that a launch is made of.
//!
//! `closure.json` is built by Nix (nix/packages/closure.nix) and names every file with its SHA-256,
//! so that a file that is missing or was altered is refused before anything starts.

mod deferred_image;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deferred_image::Realise;
pub use deferred_image::{Build, Later};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};

/// Environment variable that names another closure.json (the dev shell and tests set it).
pub const VARIABLE: &str = "BOTTLE_CLOSURE";

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
    #[serde(default)]
    pub later: BTreeMap<String, Later>,
    /// What builds them, from `later.json`.
    #[serde(skip)]
    realise: Option<Realise>,
}

/// A file of the closure.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
pub struct StoreFile {
    /// Absolute path.
    pub path: PathBuf,
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
    pub root: PathBuf,
    /// The command line.
    pub binary: StoreFile,
    /// Directory of libkrun and the guest's kernel.
    pub libraries: PathBuf,
    /// Root file system of the guest's own agent.
    pub agent: PathBuf,
    /// Every other regular file in `root`.
    pub files: Vec<StoreFile>,
}

impl Smolvm {
    /// Where it finds the programs that it starts.
    #[must_use]
    pub fn path(&self) -> PathBuf {
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
    pub firmware: PathBuf,
    /// The images in it: they run in the guest before its kernel.
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
    /// The same for smolvm.
    pub smolmachine: Option<StoreFile>,
    /// The agent's user.
    pub user: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Its home directory.
    pub home: PathBuf,
    /// Where it works.
    pub workdir: PathBuf,
    /// PATH in the guest.
    pub path: String,
}

impl Image {
    /// What `engine` boots.
    ///
    /// # Errors
    /// `Engine` where the image is not there for it.
    pub fn of(&self, engine: &str) -> Result<&StoreFile> {
        let (file, other) =
            if engine == "smolvm" { (&self.smolmachine, "qemu") } else { (&self.erofs, "smolvm") };
        file.as_ref().ok_or_else(|| {
            Error::new(Kind::Engine, format!("there is no such image for {engine}"))
                .hint(format!("--engine {other}"))
        })
    }
}

impl Closure {
    /// Reads the closure that `$BOTTLE_CLOSURE` names, or the one installed with this executable.
    ///
    /// # Errors
    /// `Engine` when there is none or it cannot be read.
    pub fn load() -> Result<Self> {
        Self::read(&Self::location()?)
    }

    fn location() -> Result<PathBuf> {
        if let Some(path) = std::env::var_os(VARIABLE) {
            return Ok(path.into());
        }
        let exe = std::env::current_exe()
            .context(Kind::Internal, || "cannot tell where this program is".into())?;
        let installed =
            exe.parent().and_then(Path::parent).map(|p| p.join("share/bottle/closure.json"));
        installed.filter(|p| p.exists()).ok_or_else(|| {
            Error::new(
                Kind::Engine,
                format!(
                    "{} has no closure.json beside it, so there is nothing to boot",
                    exe.display()
                ),
            )
            .hint(format!(
                "nix/bootstrap run .#bottle -- …   # or export {VARIABLE}=/path/to/closure.json"
            ))
        })
    }

    /// Reads the closure in `path`.
    ///
    /// # Errors
    /// `Engine` when it cannot be read or has another version.
    pub fn read(path: &Path) -> Result<Self> {
        let rebuild = "nix/bootstrap build .#bottle   # builds it anew";
        let text = std::fs::read(path)
            .context(Kind::Engine, || format!("cannot read the closure {}", path.display()))
            .map_err(|e| e.hint(rebuild))?;
        let mut closure: Self = serde_json::from_slice(&text)
            .context(Kind::Engine, || format!("{} is not a closure", path.display()))
            .map_err(|e| e.hint(rebuild))?;
        if closure.version != 1 {
            return Err(Error::new(
                Kind::Engine,
                format!("{} has version {}, this bottle reads 1", path.display(), closure.version),
            )
            .hint(rebuild));
        }
        closure.read_builders(path).map_err(|e| e.hint(rebuild))?;
        Ok(closure)
    }

    /// The image `name`.
    ///
    /// # Errors
    /// `Config` when there is no such image.
    pub fn image(&self, name: &str) -> Result<&Image> {
        self.images.get(name).ok_or_else(|| {
            let known: Vec<_> =
                self.images.keys().chain(self.later.keys()).map(String::as_str).collect();
            Error::new(Kind::Config, format!("there is no image {name:?}"))
                .hint(format!("one of: {}", known.join(", ")))
        })
    }

    /// Checks that every file which a launch of `image` on `engine` needs is there and unaltered.
    ///
    /// A file is hashed once; afterwards `cache` remembers its inode, size and change time, which
    /// only root can forge.
    ///
    /// # Errors
    /// `Engine` naming the first file that is missing or altered.
    pub fn verify(&self, image: &Image, engine: &str, cache: &Path) -> Result<()> {
        let (qemu, tools) = (&self.engines.qemu, &self.tools);
        let mut files = vec![
            image.of(engine)?,
            &self.bundle.binary,
            &tools.mke2fs,
            &tools.git,
            &tools.ssh,
            &tools.gitleaks,
        ];
        match (engine, &self.engines.smolvm) {
            ("smolvm", Some(smolvm)) => {
                files.push(&smolvm.binary);
                files.extend(&smolvm.files);
            }
            _ => {
                files.extend([&qemu.binary, &qemu.kernel, &qemu.initrd]);
                files.extend(&qemu.firmware_files);
            }
        }
        verify::files(files, cache)
    }
}
