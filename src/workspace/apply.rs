//! Applies a guest's changes to the operator's project: all of them or none, and never through a
//! link.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{self, AtFlags, OFlag};
use nix::sys::stat::{self, Mode, SFlag};
use nix::unistd::{self, UnlinkatFlags};

use super::baseline::{Baseline, FileState};
use super::changes::{Change, Changes, hash};
use super::checks::WorkspaceChecks;
use super::names;
use crate::error::{Context, Error, ErrorKind, Result};

/// What a pull did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many changes were made.
    pub applied: usize,
    /// How many changes the project had already.
    pub already: usize,
    /// Why nothing was applied: path and reason.
    pub conflicts: Vec<(PathBuf, String)>,
}

/// Applies `changes`, whose content is in the directory `taken`, to the project that `baseline`
/// names, and brings `baseline` up to date. If there is any conflict, nothing is written.
///
/// # Errors
/// `Io` when something cannot be read or written: then a part may have been applied, and pulling
/// again continues.
pub fn apply(
    changes: &Changes,
    taken: &Path,
    baseline: &mut Baseline,
    checks: WorkspaceChecks,
) -> Result<Outcome> {
    let root = fcntl::open(&baseline.root, DIR, Mode::empty())
        .context(ErrorKind::Io, || format!("cannot open {}", baseline.root.display()))?;
    let mut outcome = Outcome::default();
    let mut todo = Vec::new();
    for change in &changes.list {
        match current(&root, &baseline.root, &change.path, checks) {
            Err(why) => outcome.conflicts.push((change.path.clone(), why)),
            Ok(now) if now == change.after => outcome.already += 1,
            Ok(now) if now == change.before || !checks.conflicts => todo.push(change),
            Ok(None) => outcome
                .conflicts
                .push((change.path.clone(), "it was deleted here meanwhile".to_owned())),
            Ok(Some(_)) if change.before.is_none() => outcome
                .conflicts
                .push((change.path.clone(), "there is another file here".to_owned())),
            Ok(Some(_)) => outcome
                .conflicts
                .push((change.path.clone(), "it was changed here meanwhile".to_owned())),
        }
    }
    if !outcome.conflicts.is_empty() {
        return Ok(outcome);
    }
    // Deletions first: a directory may have become a file.
    todo.sort_by_key(|change| change.after.is_some());
    for change in todo {
        let what = || format!("cannot write {}", change.path.display());
        write(&root, &baseline.root, taken, change, checks).context(ErrorKind::Io, what)?;
        outcome.applied += 1;
    }
    for change in &changes.list {
        let key = change.path.to_string_lossy().into_owned();
        match &change.after {
            Some(kept) => drop(baseline.files.insert(key, kept.clone())),
            None => drop(baseline.files.remove(&key)),
        }
    }
    Ok(outcome)
}

const DIR: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const IN_THE_WAY: &str = "a link or file of this host is in the way";

/// The directory above `path`, and its last part; `None` when it is not there. `make` makes it.
fn above<'p>(
    root: &OwnedFd,
    path: &'p Path,
    make: bool,
) -> Result<Option<(OwnedFd, &'p OsStr)>, Errno> {
    let mut dir = fcntl::openat(root, ".", DIR, Mode::empty())?;
    for part in path.parent().into_iter().flat_map(Path::iter) {
        dir = match fcntl::openat(&dir, part, DIR, Mode::empty()) {
            Err(Errno::ENOENT) if make => {
                stat::mkdirat(&dir, part, Mode::from_bits_truncate(0o755))?;
                fcntl::openat(&dir, part, DIR, Mode::empty())?
            }
            Err(Errno::ENOENT) => return Ok(None),
            other => other?,
        };
    }
    Ok(path.file_name().map(|name| (dir, name)))
}

/// The state of the project's file at `path`; `None` when there is none.
fn current(
    root: &OwnedFd,
    on_host: &Path,
    path: &Path,
    checks: WorkspaceChecks,
) -> Result<Option<FileState>, String> {
    if !checks.no_follow {
        return super::changes::file_state(&on_host.join(path)).map_err(|e| e.chain());
    }
    let message = |e: Errno| match e {
        Errno::ELOOP | Errno::ENOTDIR => IN_THE_WAY.to_owned(),
        other => other.desc().to_owned(),
    };
    let (dir, name) = match above(root, path, false) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        // There is a file where a directory will be. Deleting the file is a change of its own, which
        // is applied first.
        Err(Errno::ENOTDIR) if parent_is_file(root, path) => return Ok(None),
        Err(e) => return Err(message(e)),
    };
    let meta = match stat::fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(meta) => meta,
        Err(Errno::ENOENT) => return Ok(None),
        Err(e) => return Err(message(e)),
    };
    match SFlag::from_bits_truncate(meta.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFLNK => {
            let target = fcntl::readlinkat(&dir, name).map_err(message)?;
            Ok(Some(FileState::Link(target.to_string_lossy().into_owned())))
        }
        SFlag::S_IFREG => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let file = fcntl::openat(&dir, name, flags, Mode::empty()).map_err(message)?;
            hash(File::from(file)).map(Some).map_err(|e| e.to_string())
        }
        SFlag::S_IFDIR => Err("there is a directory of that name here".to_owned()),
        _ => Err(IN_THE_WAY.to_owned()),
    }
}

/// Whether some parent of `path` is a regular file, not a link.
fn parent_is_file(root: &OwnedFd, path: &Path) -> bool {
    path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).any(|p| {
        let Ok(Some((dir, name))) = above(root, p, false) else { return false };
        stat::fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|m| {
            SFlag::from_bits_truncate(m.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG
        })
    })
}

fn write(
    root: &OwnedFd,
    on_host: &Path,
    taken: &Path,
    change: &Change,
    checks: WorkspaceChecks,
) -> io::Result<()> {
    if !checks.no_follow {
        return write_following(on_host, taken, change);
    }
    let make = change.after.is_some();
    let Some((dir, name)) = above(root, &change.path, make)? else { return Ok(()) };
    let Some(after) = &change.after else {
        unistd::unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir)?;
        // Directories that are empty now are removed too, as git does not track them.
        let mut up = change.path.parent();
        while let Some(empty) = up.filter(|p| !p.as_os_str().is_empty()) {
            let Some((dir, name)) = above(root, empty, false)? else { break };
            if unistd::unlinkat(&dir, name, UnlinkatFlags::RemoveDir).is_err() {
                break;
            }
            up = empty.parent();
        }
        return Ok(());
    };
    // The file is written beside its place and then renamed: an old file is replaced as a whole, and
    // a link there is never followed.
    let temporary = format!(".bottle-pull-{}", std::process::id());
    let temporary = OsStr::from_bytes(temporary.as_bytes());
    match unistd::unlinkat(&dir, temporary, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match after {
        FileState::Link(target) => unistd::symlinkat(target.as_str(), &dir, temporary)?,
        FileState::File { executable, .. } => {
            let flags = OFlag::O_WRONLY
                | OFlag::O_CREAT
                | OFlag::O_EXCL
                | OFlag::O_NOFOLLOW
                | OFlag::O_CLOEXEC;
            // The umask decides the mode; a guest may only set the executable bit.
            let mode = if *executable { 0o777 } else { 0o666 };
            let mut file =
                File::from(fcntl::openat(&dir, temporary, flags, Mode::from_bits_truncate(mode))?);
            io::copy(&mut File::open(taken.join(&change.path))?, &mut file)?;
        }
    }
    fcntl::renameat(&dir, temporary, &dir, name)?;
    Ok(())
}

/// The negative control of the attacks: writes as a careless program would.
fn write_following(on_host: &Path, taken: &Path, change: &Change) -> io::Result<()> {
    let to = on_host.join(&change.path);
    match &change.after {
        None => fs::remove_file(to),
        Some(FileState::Link(target)) => std::os::unix::fs::symlink(target, to),
        Some(FileState::File { .. }) => {
            if let Some(dir) = to.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::write(to, fs::read(taken.join(&change.path))?)
        }
    }
}

impl Changes {
    /// Moves changes of the files that say what a bottle may do to `refused`. `inside` is their
    /// directory in the project.
    pub fn without_manifest(&mut self, inside: &Path, checks: WorkspaceChecks) {
        if !checks.manifest {
            return;
        }
        let (out, rest) = std::mem::take(&mut self.list)
            .into_iter()
            .partition(|c: &Change| names::is_manifest(&c.path, inside));
        self.list = rest;
        let why = "it says what a bottle may do; --manifest-files takes it too";
        let out: Vec<Change> = out;
        self.refused.extend(
            out.into_iter().map(|c| (c.path.to_string_lossy().into_owned(), why.to_owned())),
        );
    }

    /// The paths of changed files that a program of the host runs without being asked.
    #[must_use]
    pub fn running_by_itself(&self) -> Vec<&Path> {
        self.list
            .iter()
            .filter(|c| c.after.is_some())
            .map(|c| c.path.as_path())
            .filter(|p| names::runs_by_itself(p))
            .collect()
    }
}

/// The error of a pull that met conflicts; `None` when there was none.
pub(crate) fn conflict(outcome: &Outcome, slug: &str) -> Option<Error> {
    let first = outcome
        .conflicts
        .iter()
        .take(20)
        .map(|(path, why)| format!("\n  {}: {why}", path.display()));
    (!outcome.conflicts.is_empty()).then(|| {
        Error::new(
            ErrorKind::Declined,
            format!(
                "nothing was pulled, as the project has changed too:{}",
                first.collect::<String>()
            ),
        )
        .hint(format!("bottle pull {slug} --branch agent/{slug}   # onto a branch, to merge"))
    })
}
