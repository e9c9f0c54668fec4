//! The files that went into a bottle, by name and hash. Work that comes out is compared with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::write_private;

/// A file or link as it went in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// A file.
    File {
        /// SHA-256 of its content, lower hex.
        sha256: String,
        /// Whether its owner may execute it.
        #[serde(default)]
        executable: bool,
    },
    /// A symbolic link with this target.
    Link(String),
}

/// All files that went in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Format version, 1.
    pub version: u32,
    /// The project's directory on the host.
    pub root: PathBuf,
    /// By path relative to it.
    pub files: BTreeMap<String, FileState>,
}

impl Baseline {
    /// An empty baseline of the project `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { version: 1, root: root.to_owned(), files: BTreeMap::new() }
    }

    /// Writes it to `path`, private.
    ///
    /// # Errors
    /// `Io` when it cannot be written.
    pub fn write(&self, path: &Utf8Path) -> Result<()> {
        write_private(
            path,
            &serde_json::to_vec(self)
                .context(ErrorKind::Internal, || "cannot write the workspace's baseline".into())?,
        )
    }

    /// Reads what [`Baseline::write`] wrote.
    ///
    /// # Errors
    /// `Usage` when there is none: the bottle got no copy of a project.
    pub fn read(path: &Utf8Path, slug: &str) -> Result<Self> {
        let none = || {
            Error::new(ErrorKind::Usage, format!("bottle {slug:?} has no copy of a project"))
                .hint("workspace = { mode = \"copy\" } gives it one")
        };
        let bytes = std::fs::read(path).map_err(|_| none())?;
        serde_json::from_slice(&bytes).context(ErrorKind::Config, || format!("cannot read {path}"))
    }
}
