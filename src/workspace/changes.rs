//! What a guest changed: its unpacked workspace against what went in.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::baseline::{Baseline, Kept};
use super::{Guards, names, unpack::Taken};
use crate::error::{Context, Kind, Result};

/// How a file is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is new.
    Added,
    /// Its content, target or mode is another.
    Modified,
    /// It is gone.
    Deleted,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative to the project; checked.
    pub path: PathBuf,
    /// How.
    pub what: What,
    /// What it was; `None`: nothing.
    pub before: Option<Kept>,
    /// What it is; `None`: nothing.
    pub after: Option<Kept>,
}

/// All differences, by path.
#[derive(Debug, Default)]
pub struct Changes {
    /// What may be taken.
    pub list: Vec<Change>,
    /// What may not: name and reason.
    pub refused: Taken,
}

/// Compares the unpacked workspace in `taken`, of whose tar `refused` was left out, with what went
/// in.
///
/// # Errors
/// `Config` when the directory cannot be read.
pub fn changes(
    taken: &Path,
    baseline: &Baseline,
    refused: Taken,
    guards: Guards,
) -> Result<Changes> {
    let mut found = Changes { refused, ..Changes::default() };
    let mut seen = BTreeSet::new();
    walk(taken, Path::new(""), &mut |path, on_disk| {
        if let (Err(why), true) = (names::check(path), guards.names) {
            found.refused.push((path.to_string_lossy().into_owned(), why.to_owned()));
            return Ok(());
        }
        let after = look(on_disk)?;
        if let (Some(Kept::Link(target)), true) = (&after, guards.links) {
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
        let what = match (&before, &after) {
            (_, None) => return Ok(()),
            (None, _) => What::Added,
            (old, new) if old == new => return Ok(()),
            _ => What::Modified,
        };
        found.list.push(Change { path: path.to_owned(), what, before, after });
        Ok(())
    })?;
    // What was refused is not gone.
    let told: BTreeSet<&str> = found.refused.iter().map(|(name, _)| name.as_str()).collect();
    for (key, before) in baseline
        .files
        .iter()
        .filter(|(key, _)| !seen.contains(*key) && !told.contains(key.as_str()))
    {
        found.list.push(Change {
            path: key.into(),
            what: What::Deleted,
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
    for entry in fs::read_dir(dir).context(Kind::Config, what)? {
        let entry = entry.context(Kind::Config, what)?;
        let path = below.join(entry.file_name());
        if entry.file_type().context(Kind::Config, what)?.is_dir() {
            walk(&entry.path(), &path, found)?;
        } else {
            found(&path, &entry.path())?;
        }
    }
    Ok(())
}

/// The file or link at `path`, not followed; `None` when there is none or it is something else.
pub(super) fn look(path: &Path) -> Result<Option<Kept>> {
    let what = || format!("cannot read {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            let target = fs::read_link(path).context(Kind::Config, what)?;
            Ok(Some(Kept::Link(target.to_string_lossy().into_owned())))
        }
        Ok(meta) if meta.is_file() => {
            let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
            let file = fs::OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(path)
                .context(Kind::Config, what)?;
            hash(file).map(Some).context(Kind::Config, what)
        }
        Ok(_) => Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(Kind::Config, what),
    }
}

/// An open file as it is kept.
pub(super) fn hash(mut file: fs::File) -> std::io::Result<Kept> {
    let executable = file.metadata()?.mode() & 0o100 != 0;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Kept::File { sha256: hex::encode(digest.finalize()), executable }),
            n => digest.update(&buffer[..n]),
        }
    }
}
