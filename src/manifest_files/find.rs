//! Finding the manifest for a directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::dir_files::{DirFiles, read_capped};
use crate::manifest::{Manifest, ManifestError, ManifestErrors, WorkspaceMode, parse};
use crate::values::Location;

/// The manifest's file name.
pub const FILE_NAME: &str = "bottle.toml";

/// The operator's own skills, relative to their home.
pub const USER_SKILLS: &str = ".config/bottle/skills";

/// Where to look for a manifest and what it may point at.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Directory to start in (absolute); its parents follow.
    pub start: PathBuf,
    /// `--manifest FILE`: this file and no search; relative to `start`.
    pub file: Option<PathBuf>,
    /// The operator's home: where the search stops, and what `~/` means.
    pub home: Option<PathBuf>,
    /// Directory of the operator's own skills, tried after `skills/` beside the manifest.
    pub user_skills: Option<PathBuf>,
}

/// The nearest `bottle.toml` in `start` and its parents up to and including `home` (or the root).
#[must_use]
pub fn find(start: &Path, home: Option<&Path>) -> Option<PathBuf> {
    // The current directory has its links resolved, `$HOME` may not.
    let real_home = home.and_then(|h| h.canonicalize().ok());
    for dir in start.ancestors() {
        let candidate = dir.join(FILE_NAME);
        if candidate.symlink_metadata().is_ok() {
            return Some(candidate);
        }
        if Some(dir) == home || Some(dir) == real_home.as_deref() {
            break;
        }
    }
    None
}

/// The manifest for `search`: the file found, its agent files and the built-ins; only the built-ins
/// when there is no file.
///
/// A manifest can name commands that run on the host (`token = { command = … }`), so one that was
/// found rather than named is only used when this user or root owns it.
///
/// # Errors
/// Everything that is wrong with the files, each with its place.
pub fn load(search: &Search) -> Result<Manifest, ManifestErrors> {
    let mut manifest = read(search)?;
    // The built-in agents work on the project that the operator stands in.
    let project = manifest.dir.clone().unwrap_or_else(|| search.start.clone());
    for bottle in manifest
        .bottles
        .values_mut()
        .filter(|b| b.workspace.mode == WorkspaceMode::Copy && b.workspace.path.is_none())
    {
        bottle.workspace.path = Some(project.clone());
    }
    Ok(manifest)
}

fn read(search: &Search) -> Result<Manifest, ManifestErrors> {
    let Some(path) = search
        .file
        .as_ref()
        .map(|f| search.start.join(f))
        .or_else(|| find(&search.start, search.home.as_deref()))
    else {
        return Ok(Manifest::built_in());
    };
    let shown = path.strip_prefix(&search.start).unwrap_or(&path);
    let fault = |why: String, hint: Option<&str>| {
        ManifestError::new(&Location::whole(shown), "", why, hint.map(str::to_owned))
    };
    if search.file.is_none() {
        let owner = path.metadata().map_err(|e| fault(format!("cannot read it: {e}"), None))?.uid();
        if owner != nix::unistd::geteuid().as_raw() && owner != 0 {
            let hint = "a manifest can run commands on this host; if you trust it, name it: --manifest FILE";
            return Err(
                fault(format!("it belongs to another user (uid {owner})"), Some(hint)).into()
            );
        }
    }
    let bytes =
        read_capped(&path, shown).map_err(|why| fault(format!("cannot read it: {why}"), None))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let dir = dir
        .canonicalize()
        .map_err(|e| fault(format!("cannot resolve its directory: {e}"), None))?;
    let paths = [Some(&dir), search.home.as_ref(), search.user_skills.as_ref()];
    if let Some(odd) = paths.into_iter().flatten().find(|p| p.to_str().is_none()) {
        return Err(
            fault(format!("a directory's name is not UTF-8: {}", odd.display()), None).into()
        );
    }
    let files =
        DirFiles { dir, home: search.home.clone(), user_skills: search.user_skills.clone() };
    parse(&bytes, shown, &files)
}
