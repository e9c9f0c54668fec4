//! The real files around a manifest: read only from beside it, never through a link that leads
//! away, never without limit.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::manifest::{Files, MAX_FILE};
use crate::values::{Slug, neutral};

/// Most agent files.
const MAX_AGENTS: usize = 256;

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
