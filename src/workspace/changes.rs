//! Compares a guest's unpacked workspace with the files that went in.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::baseline::{Baseline, FileState};
use super::checks::WorkspaceChecks;
use super::names;
use super::unpack::RefusedFiles;
use crate::error::{Context, ErrorKind, Result};

/// How a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content, link target or mode has changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One changed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative to the project; its name was checked.
    pub path: PathBuf,
    /// How it has changed.
    pub kind: ChangeKind,
    /// Its state before; `None` when it did not exist.
    pub before: Option<FileState>,
    /// Its state now; `None` when it does not exist.
    pub after: Option<FileState>,
}

/// All changed files, by path.
#[derive(Debug, Default)]
pub struct Changes {
    /// Changes that may be applied.
    pub list: Vec<Change>,
    /// Files that may not: name and reason.
    pub refused: RefusedFiles,
}

/// Compares the unpacked workspace in `taken` with `baseline`. `refused` are the files that were not
/// unpacked; they are not reported as deleted.
///
/// # Errors
/// `Io` when the directory cannot be read.
pub fn changes(
    taken: &Path,
    baseline: &Baseline,
    refused: RefusedFiles,
    checks: WorkspaceChecks,
) -> Result<Changes> {
    let mut found = Changes { refused, ..Changes::default() };
    let mut seen = BTreeSet::new();
    walk(taken, Path::new(""), &mut |path, on_disk| {
        if let (Err(why), true) = (names::check(path), checks.names) {
            found.refused.push((path.to_string_lossy().into_owned(), why.to_owned()));
            return Ok(());
        }
        let after = file_state(on_disk)?;
        if let (Some(FileState::Link(target)), true) = (&after, checks.links) {
            if !names::link(path, Path::new(target)) {
                found.refused.push((
                    path.to_string_lossy().into_owned(),
                    format!("a link that leads out: {target}"),
                ));
                return Ok(());
            }
        }
        let key = path.to_string_lossy().into_owned();
        let before = baseline.files.get(&key).cloned();
        seen.insert(key);
        let kind = match (&before, &after) {
            (_, None) => return Ok(()),
            (None, _) => ChangeKind::Added,
            (old, new) if old == new => return Ok(()),
            _ => ChangeKind::Modified,
        };
        found.list.push(Change { path: path.to_owned(), kind, before, after });
        Ok(())
    })?;
    // A refused file was not deleted.
    let refused: BTreeSet<&str> = found.refused.iter().map(|(name, _)| name.as_str()).collect();
    for (key, before) in baseline
        .files
        .iter()
        .filter(|(key, _)| !seen.contains(*key) && !refused.contains(key.as_str()))
    {
        found.list.push(Change {
            path: key.into(),
            kind: ChangeKind::Deleted,
            before: Some(before.clone()),
            after: None,
        });
    }
    found.list.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

type Found<'a> = &'a mut dyn FnMut(&Path, &Path) -> Result<()>;

fn walk(dir: &Path, below: &Path, found: Found<'_>) -> Result<()> {
    let what = || format!("cannot read {}", dir.display());
    for entry in fs::read_dir(dir).context(ErrorKind::Io, what)? {
        let entry = entry.context(ErrorKind::Io, what)?;
        let path = below.join(entry.file_name());
        if entry.file_type().context(ErrorKind::Io, what)?.is_dir() {
            walk(&entry.path(), &path, found)?;
        } else {
            found(&path, &entry.path())?;
        }
    }
    Ok(())
}

/// The state of the file or link at `path`, which is not followed; `None` when there is none or it
/// is something else.
pub(super) fn file_state(path: &Path) -> Result<Option<FileState>> {
    let what = || format!("cannot read {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            let target = fs::read_link(path).context(ErrorKind::Io, what)?;
            Ok(Some(FileState::Link(target.to_string_lossy().into_owned())))
        }
        Ok(meta) if meta.is_file() => {
            let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
            let file = fs::OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(path)
                .context(ErrorKind::Io, what)?;
            hash(file).map(Some).context(ErrorKind::Io, what)
        }
        Ok(_) => Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(ErrorKind::Io, what),
    }
}

/// The state of an open file.
pub(super) fn hash(mut file: fs::File) -> std::io::Result<FileState> {
    let executable = file.metadata()?.mode() & 0o100 != 0;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(FileState::File { sha256: hex::encode(digest.finalize()), executable }),
            n => digest.update(&buffer[..n]),
        }
    }
}
