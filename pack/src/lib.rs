//! `.smolmachine` files: what smolvm's `machine create --from` takes.
//!
//! The layout, read from smolvm 1.32's own writer (`smolvm-pack`), is a zstd-compressed tar of
//! `layers/DIGEST.tar`, then a JSON manifest, then a footer of 64 bytes that locates both. Agent,
//! libraries and disk templates may be left out: smolvm takes its own. The crate `smolvm-pack`
//! itself is not used: its writer is not reproducible and locks `$HOME/.cache`, and what is left of
//! it here is a struct and a footer, for thirty more packages in the lock file.
//!
//! The same input gives the same bytes on every machine, for every user: nothing is read but names,
//! modes, links and contents.

mod archive;
mod container;
mod layer;
mod tree;

use std::io;
use std::path::PathBuf;

pub use archive::Archive;
pub use container::{Manifest, Packed, Spec, host_platform, inspect, pack, verify};
pub use layer::Layer;
pub use tree::{File, Tree};

/// Why nothing was packed, or a file is not a whole `.smolmachine`.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A source or the target cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// What was worked on.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The target cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
    /// A source is not what it must be.
    #[error("{}: {why}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A file ends before its footer says so, or has no footer.
    #[error("not a whole .smolmachine: {0}")]
    Truncated(String),
    /// A file of a format that is not known here.
    #[error("format version {found}, and only {known} is known: it was made for a newer smolvm")]
    Version {
        /// The file's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A file for another machine.
    #[error("it is for {found}, this host runs {wanted}")]
    Platform {
        /// The file's.
        found: String,
        /// The host's.
        wanted: String,
    },
    /// A file whose bytes are not those that were packed.
    #[error("damaged: {0}")]
    Damaged(String),
}

pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> PackError {
    let path = path.into();
    move |error| PackError::Io { path, error }
}
