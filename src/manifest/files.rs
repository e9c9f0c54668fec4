//! The files that a manifest points at, behind a trait: this module touches no file itself.
//! [`crate::manifest_files`] reads the real ones.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::values::{Slug, neutral};

/// Longest file that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// The files around a manifest. All errors are one line for the operator.
pub trait Files {
    /// The manifest's directory (absolute).
    fn dir(&self) -> &Path;

    /// The operator's home (absolute).
    fn home(&self) -> Option<&Path>;

    /// The content of a file below [`Files::dir`]; `relative` passed [`inside`].
    ///
    /// # Errors
    /// Missing, unreadable, not a file, longer than [`MAX_FILE`], or not below the directory once
    /// links are resolved.
    fn read(&self, relative: &Path) -> Result<Vec<u8>, String>;

    /// A directory below [`Files::dir`], links resolved; `relative` passed [`inside`].
    ///
    /// # Errors
    /// Missing, not a directory, or not below the manifest's directory once links are resolved.
    fn subdir(&self, relative: &Path) -> Result<PathBuf, String>;

    /// The directory of a skill, links resolved.
    ///
    /// # Errors
    /// No such skill, without `SKILL.md`, or links lead out of the skills' directory.
    fn skill(&self, name: &Slug) -> Result<PathBuf, String>;

    /// Names of the `*.md` files in `agents/`, sorted.
    ///
    /// # Errors
    /// The directory cannot be listed, or holds too many.
    fn agents(&self) -> Result<Vec<String>, String>;
}

/// `text` as a path that lexically stays below where it is relative to.
///
/// # Errors
/// It is empty, absolute, or has a `..`; one line that says so.
pub fn inside(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if text.is_empty() || text.len() > 4096 || text.contains('\0') {
        return Err("not a path".to_owned());
    }
    if !path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err("must be relative to the manifest and stay in its directory".to_owned());
    }
    let plain: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
    Ok(if plain.as_os_str().is_empty() { PathBuf::from(".") } else { plain })
}

/// `text` as a path of the host: absolute, `~/…`, or relative to the manifest (then inside its
/// directory).
///
/// # Errors
/// No home for `~/`, `~user`, or a `..`; one line that says so.
pub fn host_path(files: &dyn Files, text: &str) -> Result<PathBuf, String> {
    if let Some(rest) = text.strip_prefix("~/") {
        let rest = inside(rest).map_err(|_| "must stay below the home directory".to_owned())?;
        return files
            .home()
            .map(|home| home.join(rest))
            .ok_or_else(|| "there is no home directory for ~/".to_owned());
    }
    if text.starts_with('~') {
        return Err("only ~/ is understood, not ~user".to_owned());
    }
    if let Some(rest) = text.strip_prefix('/') {
        return inside(rest)
            .map(|rest| Path::new("/").join(rest))
            .map_err(|_| "an absolute path may not have ..".to_owned());
    }
    inside(text).map(|rest| files.dir().join(rest))
}

/// Files in memory, for tests and fuzzing.
#[derive(Debug, Clone, Default)]
pub struct MemFiles {
    /// Content by relative path; `skills/NAME/SKILL.md` makes a skill, `agents/NAME.md` an agent
    /// file.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Files for MemFiles {
    fn dir(&self) -> &Path {
        Path::new("/project")
    }

    fn home(&self) -> Option<&Path> {
        Some(Path::new("/home/op"))
    }

    fn read(&self, relative: &Path) -> Result<Vec<u8>, String> {
        let found = relative.to_str().and_then(|r| self.files.get(r));
        found.cloned().ok_or_else(|| format!("{}: no such file", shown(relative)))
    }

    fn subdir(&self, relative: &Path) -> Result<PathBuf, String> {
        Ok(self.dir().join(relative).components().filter(|c| *c != Component::CurDir).collect())
    }

    fn skill(&self, name: &Slug) -> Result<PathBuf, String> {
        let known = self.files.contains_key(&format!("skills/{name}/SKILL.md"));
        if known {
            Ok(self.dir().join("skills").join(name.as_str()))
        } else {
            Err("there is none in /project/skills".to_owned())
        }
    }

    fn agents(&self) -> Result<Vec<String>, String> {
        Ok(self
            .files
            .keys()
            .filter_map(|k| k.strip_prefix("agents/"))
            .filter(|k| k.ends_with(".md"))
            .map(str::to_owned)
            .collect())
    }
}

fn shown(path: &Path) -> String {
    neutral(&path.to_string_lossy())
}
