//! Unpacking a tar stream that a guest made.
//!
//! Regular files, directories and symlinks that stay inside, nothing else. Every path is walked from a directory handle
//! without following links, so that neither an earlier entry nor another process can redirect a later one.

use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;

use crate::copy::CopyReport;

/// How much a guest may write to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// Why the guest's tar was refused. What came before the offending entry stays unpacked.
#[derive(Debug, Error)]
pub enum UntarError {
    /// The stream or the destination failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A path that is absolute, goes up, or goes through something that is not a directory.
    #[error("refused path {0:?}")]
    Path(String),
    /// A link that leads out of the destination.
    #[error("refused link {0:?} to {1:?}")]
    Link(String, String),
    /// A device, socket, hard link or the like.
    #[error("refused {1} {0:?}")]
    Kind(String, String),
    /// Over a limit.
    #[error("more than {0}")]
    Limit(String),
}

/// Unpacks `tar` below `dest`, which must exist.
///
/// # Errors
/// See [`UntarError`].
pub fn extract_hostile<R: Read>(_tar: R, _dest: &Path, _limits: Limits) -> Result<CopyReport, UntarError> {
    Err(io::Error::from(io::ErrorKind::Unsupported).into())
}
