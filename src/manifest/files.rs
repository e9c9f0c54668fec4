//! The files that a manifest points at: read only from beside it, never through a link that leads
//! away, never without limit.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use super::{Slug, neutral};

/// Longest file that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;
/// Most agent files.
const MAX_AGENTS: usize = 256;

/// What a manifest's text is read against. All errors are one line for the operator.
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

/// The real files around a manifest.
#[derive(Debug, Clone)]
pub struct DirFiles {
    /// The manifest's directory, links resolved.
    pub dir: PathBuf,
    /// The operator's home.
    pub home: Option<PathBuf>,
    /// The operator's own skills.
    pub user_skills: Option<PathBuf>,
}

impl DirFiles {
    fn resolve(root: &Path, relative: &Path) -> Result<PathBuf, String> {
        let root = root.canonicalize().map_err(|e| reason(root, &e))?;
        let path = root.join(relative);
        let real = path.canonicalize().map_err(|e| reason(relative, &e))?;
        if !real.starts_with(&root) {
            return Err(format!(
                "{} leads out of {} by a symbolic link",
                shown(relative),
                shown(&root)
            ));
        }
        if real.to_str().is_none() {
            return Err(format!("{}: the path is not UTF-8", shown(relative)));
        }
        Ok(real)
    }
}

impl Files for DirFiles {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    fn read(&self, relative: &Path) -> Result<Vec<u8>, String> {
        read_capped(&Self::resolve(&self.dir, relative)?, relative)
    }

    fn subdir(&self, relative: &Path) -> Result<PathBuf, String> {
        let real = Self::resolve(&self.dir, relative)?;
        if real.is_dir() {
            Ok(real)
        } else {
            Err(format!("{} is not a directory", shown(relative)))
        }
    }

    fn skill(&self, name: &Slug) -> Result<PathBuf, String> {
        let roots = [Some(self.dir.join("skills")), self.user_skills.clone()];
        for root in roots.iter().flatten() {
            if root.join(name.as_str()).symlink_metadata().is_ok() {
                let dir = Self::resolve(root, Path::new(name.as_str()))?;
                // A skill without its SKILL.md would be copied and then ignored by every agent.
                return if dir.join("SKILL.md").is_file() {
                    Ok(dir)
                } else {
                    Err(format!("{} has no SKILL.md", shown(&dir)))
                };
            }
        }
        let places: Vec<String> = roots.iter().flatten().map(|r| shown(r)).collect();
        Err(format!("there is none in {}", places.join(" or ")))
    }

    fn agents(&self) -> Result<Vec<String>, String> {
        let dir = self.dir.join("agents");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(reason(&dir, &e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| reason(&dir, &e))?.file_name();
            // Editors leave .#x.md and the like; a file that begins with a dot is never an agent.
            let name = name.to_string_lossy();
            if name.ends_with(".md") && !name.starts_with('.') {
                names.push(name.into_owned());
            }
        }
        names.sort();
        if names.len() > MAX_AGENTS {
            Err(format!("more than {MAX_AGENTS} agent files"))
        } else {
            Ok(names)
        }
    }
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

/// Reads `path`, a regular file of at most [`MAX_FILE`] bytes; messages call it `name`.
pub(super) fn read_capped(path: &Path, name: &Path) -> Result<Vec<u8>, String> {
    // Non-blocking, so that opening a FIFO returns and the check below can refuse it.
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path);
    let file: File = open.map_err(|e| reason(name, &e))?;
    if !file.metadata().map_err(|e| reason(name, &e))?.is_file() {
        return Err(format!("{} is not a regular file", shown(name)));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| reason(name, &e))?;
    if bytes.len() as u64 > MAX_FILE {
        Err(format!("{} is longer than 1 MiB", shown(name)))
    } else {
        Ok(bytes)
    }
}

fn shown(path: &Path) -> String {
    neutral(&path.to_string_lossy())
}

fn reason(path: &Path, error: &std::io::Error) -> String {
    let why = match error.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    format!("{}: {why}", shown(path))
}
