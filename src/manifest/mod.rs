//! `bottle.toml` and agent files → [`Manifest`]. Parse, don't validate: what leaves here needs no further check.

mod error;
mod names;
mod types;

use std::path::{Path, PathBuf};

pub use error::{Location, ManifestError, ManifestErrors, neutral};
pub use names::{Bytes, EnvName, GitUrl, NameError, Slug};
pub(crate) use names::{nearest, quote};
pub use types::*;

/// Where to look for a manifest and what it may point at.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Directory to start in (absolute); its parents follow.
    pub start: PathBuf,
    /// `--manifest FILE`: this file and no search.
    pub file: Option<PathBuf>,
    /// The operator's home: where the search stops, and what `~/` means.
    pub home: Option<PathBuf>,
    /// Directory of the operator's own skills, tried after `skills/` beside the manifest.
    pub user_skills: Option<PathBuf>,
}

/// The manifest for `search`: the file found, its agent files and the built-ins; only the built-ins when there is no file.
///
/// # Errors
/// Everything that is wrong with the files, each with its place.
pub fn load(search: &Search) -> Result<Manifest, ManifestErrors> {
    let _ = search;
    Err(ManifestError::new(&Location::whole(Path::new("bottle.toml")), "", "not written yet", None).into())
}
