//! Errors of packing and of verifying.

use std::io;
use std::path::PathBuf;

/// Why packing failed, or a file is not a valid `.smolmachine`.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A source or the target cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The target cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
    /// A source is invalid.
    #[error("{}: {why}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file is shorter than its footer says, or has no footer.
    #[error("not a whole .smolmachine: {0}")]
    Truncated(String),
    /// The file has an unknown format version.
    #[error("format version {found}, and only {known} is known: it was made for a newer smolvm")]
    Version {
        /// The version of the file.
        found: u32,
        /// The version that this program reads.
        known: u32,
    },
    /// The file is for another platform.
    #[error("it is for {found}, this host runs {wanted}")]
    Platform {
        /// The platform of the file.
        found: String,
        /// The platform of the host.
        wanted: String,
    },
    /// The file's bytes have changed since it was packed.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// Adds a path to an I/O error.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> PackError {
    let path = path.into();
    move |error| PackError::Io { path, error }
}
