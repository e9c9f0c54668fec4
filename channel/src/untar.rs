//! Unpacks a tar stream: on the host one that a guest made, in the guest a workspace.
//!
//! It accepts only regular files, directories, and symlinks that stay inside. Every path is walked
//! from a directory handle without following links, so that neither an earlier entry nor another
//! process can redirect a later entry.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{fchown, lchown};
use std::path::{Component, Path};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::stat::{self, Mode};
use nix::sys::time::TimeSpec;
use nix::unistd::{self, UnlinkatFlags};
use tar::EntryType;
use thiserror::Error;

use crate::copy::CopyReport;

/// Limits on what a guest may write to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of files, directories and links.
    pub entries: u64,
    /// Maximum bytes of file content.
    pub bytes: u64,
}

/// Why a tar was refused. Entries before the refused one stay unpacked.
#[derive(Debug, Error)]
pub enum UntarError {
    /// The stream or the destination failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The path is absolute, goes up, or goes through something that is not a directory.
    #[error("refused path {0:?}")]
    Path(String),
    /// The link leads out of the destination.
    #[error("refused link {0:?} to {1:?}")]
    Link(String, String),
    /// The entry is a device, a socket, a hard link or the like.
    #[error("refused {1} {0:?}")]
    Kind(String, String),
    /// A limit was exceeded.
    #[error("more than {0}")]
    Limit(String),
}

/// Maximum length of a path or link target in bytes.
const MAX_NAME_BYTES: u64 = 4096;
/// Maximum length of the pax records of an entry in bytes.
const MAX_PAX_BYTES: u64 = 16 * 1024;
/// Maximum depth of a path.
const MAX_DEPTH: usize = 128;

/// Unpacks `tar` below `dest`, which must exist. Existing files and links are replaced; existing
/// directories are kept. Modes are kept without setuid, setgid and sticky bits. Owners are not
/// kept.
///
/// # Errors
/// See [`UntarError`].
pub fn extract_hostile<R: Read>(
    tar: R,
    dest: &Path,
    limits: Limits,
) -> Result<CopyReport, UntarError> {
    extract_hostile_but(tar, dest, limits, true, |_| false)
}

/// As [`extract_hostile`], but everything gets the owner `uid`:`gid`, links may lead anywhere, and
/// there are no limits.
///
/// # Errors
/// See [`UntarError`].
pub fn extract_for<R: Read>(
    tar: R,
    dest: &Path,
    (uid, gid): (u32, u32),
) -> Result<CopyReport, UntarError> {
    let limits = Limits { entries: u64::MAX, bytes: u64::MAX };
    extract(tar, Unpacking::new(dest, Some((uid, gid)), false)?, limits, |_| false)
}

/// As [`extract_hostile`], but a refused entry is skipped when `refused` returns true for its
/// error. Without `links_inside`, links may lead anywhere; nothing is ever written through a link.
///
/// # Errors
/// See [`UntarError`].
pub fn extract_hostile_but<R: Read>(
    tar: R,
    dest: &Path,
    limits: Limits,
    links_inside: bool,
    refused: impl FnMut(&UntarError) -> bool,
) -> Result<CopyReport, UntarError> {
    extract(tar, Unpacking::new(dest, None, links_inside)?, limits, refused)
}

fn extract<R: Read>(
    tar: R,
    mut unpacking: Unpacking,
    limits: Limits,
    mut refused: impl FnMut(&UntarError) -> bool,
) -> Result<CopyReport, UntarError> {
    let mut archive = tar::Archive::new(tar);
    let mut report = CopyReport::default();
    let (mut long_path, mut long_link) = (None, None);
    // Raw entries, because the tar crate would read long names and pax records of any size into
    // memory.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => long_path = Some(extension(&mut entry, MAX_NAME_BYTES)?),
            EntryType::GNULongLink => long_link = Some(extension(&mut entry, MAX_NAME_BYTES)?),
            EntryType::XHeader => {
                let records = extension(&mut entry, MAX_PAX_BYTES)?;
                for record in tar::PaxExtensions::new(&records) {
                    let record = record?;
                    match record.key_bytes() {
                        b"path" => long_path = Some(record.value_bytes().to_vec()),
                        b"linkpath" => long_link = Some(record.value_bytes().to_vec()),
                        b"size" => {
                            return Err(UntarError::Kind(
                                "pax".into(),
                                "a size outside of the header".into(),
                            ));
                        }
                        _ => {}
                    }
                }
            }
            EntryType::XGlobalHeader => drop(extension(&mut entry, MAX_PAX_BYTES)?),
            _ => {
                let path =
                    long_path.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
                let link = long_link
                    .take()
                    .or_else(|| entry.header().link_name_bytes().map(std::borrow::Cow::into_owned));
                report.files += 1;
                if report.files > limits.entries {
                    return Err(UntarError::Limit(format!("{} entries", limits.entries)));
                }
                report.bytes = report.bytes.saturating_add(entry.header().entry_size()?);
                if report.bytes > limits.bytes {
                    return Err(UntarError::Limit(format!("{} bytes", limits.bytes)));
                }
                match unpacking.unpack(&mut entry, kind, &path, link.as_deref()) {
                    Err(e) if refused(&e) => {}
                    other => other?,
                }
            }
        }
    }
    Ok(report)
}

const DIR_FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The content of an entry that describes the next entry.
fn extension<R: Read>(entry: &mut tar::Entry<'_, R>, limit: u64) -> Result<Vec<u8>, UntarError> {
    if entry.header().entry_size()? > limit {
        return Err(UntarError::Limit(format!("{limit} bytes of name")));
    }
    let mut bytes = Vec::new();
    entry.take(limit).read_to_end(&mut bytes)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// The destination.
struct Unpacking {
    root: OwnedFd,
    owner: Option<(u32, u32)>,
    links_inside: bool,
    /// Path and handle of the previous entry's directory: most entries are in the same one.
    last: (Vec<OsString>, OwnedFd),
}

impl Unpacking {
    fn new(dest: &Path, owner: Option<(u32, u32)>, links_inside: bool) -> io::Result<Self> {
        let root = fcntl::open(dest, DIR_FLAGS, Mode::empty())?;
        let last = (Vec::new(), root.try_clone()?);
        Ok(Self { root, owner, links_inside, last })
    }

    /// Opens the directory `parents`, making it when it is missing.
    fn parent(&mut self, parents: &[&OsStr]) -> nix::Result<&OwnedFd> {
        if !self.last.0.iter().eq(parents) {
            let mut dir = self.root.try_clone().map_err(|_| Errno::EMFILE)?;
            for parent in parents {
                dir = descend(&dir, parent, self.owner)?;
            }
            self.last = (parents.iter().map(|p| (*p).to_owned()).collect(), dir);
        }
        Ok(&self.last.1)
    }

    fn unpack<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: EntryType,
        path: &[u8],
        link: Option<&[u8]>,
    ) -> Result<(), UntarError> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let mut names = Vec::new();
        for component in Path::new(OsStr::from_bytes(path)).components() {
            match component {
                Component::Normal(name) => names.push(name),
                Component::CurDir => {}
                _ => return Err(UntarError::Path(shown())),
            }
        }
        if names.len() > MAX_DEPTH {
            return Err(UntarError::Path(shown()));
        }
        let mode = Mode::from_bits_truncate(entry.header().mode()? & 0o777);
        let Some((name, parents)) = names.split_last() else {
            // The destination itself.
            return if kind.is_dir() { Ok(()) } else { Err(UntarError::Path(shown())) };
        };
        let (owner, links_inside) = (self.owner, self.links_inside);
        let dir = self.parent(parents).map_err(|e| refused(e, &shown))?;
        match kind {
            EntryType::Directory => {
                let made = descend(dir, name, owner).map_err(|e| refused(e, &shown))?;
                // The owner keeps access, because entries below are still to be written.
                stat::fchmod(&made, mode | Mode::S_IRWXU).map_err(io::Error::from)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                let flags = OFlag::O_WRONLY
                    | OFlag::O_CREAT
                    | OFlag::O_EXCL
                    | OFlag::O_NOFOLLOW
                    | OFlag::O_CLOEXEC;
                let make = || fcntl::openat(dir, *name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
                let file = match make() {
                    Err(Errno::EEXIST) => {
                        clear(dir, name)?;
                        make()
                    }
                    other => other,
                };
                let mut file = std::fs::File::from(file.map_err(|e| refused(e, &shown))?);
                let expected = entry.header().entry_size()?;
                if io::copy(entry, &mut file)? != expected {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                if let Some((uid, gid)) = owner {
                    fchown(&file, Some(uid), Some(gid))?;
                }
                stat::fchmod(&file, mode).map_err(io::Error::from)?;
                let modified = TimeSpec::from_duration(Duration::from_secs(
                    entry.header().mtime()?.min(u32::MAX.into()),
                ));
                stat::futimens(&file, &modified, &modified).map_err(io::Error::from)?;
            }
            EntryType::Symlink => {
                let target = link.unwrap_or_default();
                if links_inside && !stays_inside(target, parents.len()) {
                    return Err(UntarError::Link(
                        shown(),
                        String::from_utf8_lossy(target).into_owned(),
                    ));
                }
                clear(dir, name)?;
                unistd::symlinkat(OsStr::from_bytes(target), dir, *name)
                    .map_err(|e| refused(e, &shown))?;
                if let Some((uid, gid)) = owner {
                    // lchown changes the link itself. This is only used in a guest, where /proc is
                    // mounted.
                    lchown(
                        Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name),
                        Some(uid),
                        Some(gid),
                    )?;
                }
            }
            other => return Err(UntarError::Kind(shown(), format!("{other:?}"))),
        }
        Ok(())
    }
}

/// Opens the directory `name` in `dir`, making it when it is missing.
fn descend(dir: &OwnedFd, name: &OsStr, owner: Option<(u32, u32)>) -> nix::Result<OwnedFd> {
    match fcntl::openat(dir, name, DIR_FLAGS, Mode::empty()) {
        Err(Errno::ENOENT) => {
            stat::mkdirat(dir, name, Mode::from_bits_truncate(0o755))?;
            let made = fcntl::openat(dir, name, DIR_FLAGS, Mode::empty())?;
            if let Some((uid, gid)) = owner {
                fchown(&made, Some(uid), Some(gid))
                    .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))?;
            }
            Ok(made)
        }
        other => other,
    }
}

/// Removes a file or link of that name. A directory stays; the caller's exclusive creation then
/// fails.
fn clear(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unistd::unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        // Linux says EISDIR for a directory, POSIX EPERM.
        Ok(()) | Err(Errno::ENOENT | Errno::EISDIR | Errno::EPERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn refused(error: Errno, path: &dyn Fn() -> String) -> UntarError {
    match error {
        Errno::ELOOP | Errno::ENOTDIR | Errno::EEXIST | Errno::EISDIR => UntarError::Path(path()),
        other => io::Error::from(other).into(),
    }
}

/// Whether a link in a directory `depth` levels below the destination leads to something inside.
/// `..` is allowed only at the start: after a name, which may itself be a link, it could leave the
/// tree.
fn stays_inside(target: &[u8], depth: usize) -> bool {
    let (mut ups, mut names) = (0, 0);
    for component in Path::new(OsStr::from_bytes(target)).components() {
        match component {
            Component::ParentDir if names == 0 => ups += 1,
            Component::Normal(_) => names += 1,
            Component::CurDir => {}
            _ => return false,
        }
    }
    !target.is_empty() && ups <= depth
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limits() -> Limits {
        Limits { entries: 10, bytes: 1000 }
    }

    type Raw<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

    /// A tar whose names are written raw, as no honest builder would.
    fn tar(entries: &[Raw]) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (kind, path, link, data) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_size(data.len() as u64);
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            out.append(&header, *data).unwrap();
        }
        out.into_inner().unwrap()
    }

    fn unpack_all(entries: &[Raw]) -> (tempfile::TempDir, Result<CopyReport, UntarError>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        let result = extract_hostile(&tar(entries)[..], &dir.path().join("in"), limits());
        (dir, result)
    }

    #[test]
    fn files_directories_and_inner_links_arrive_without_setuid() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, result) = unpack_all(&[
            (EntryType::Directory, "d/e", "", b""),
            (EntryType::Regular, "d/e/f", "", b"hello"),
            (EntryType::Symlink, "d/l", "../d/e/f", b""),
            (EntryType::Regular, "d/e/f", "", b"again"),
        ]);
        assert_eq!(result.unwrap(), CopyReport { files: 4, bytes: 10 });
        assert_eq!(std::fs::read(dir.path().join("in/d/l")).unwrap(), b"again");
        assert_eq!(
            std::fs::metadata(dir.path().join("in/d/e/f")).unwrap().permissions().mode() & 0o7777,
            0o755
        );
    }

    #[test]
    fn every_way_out_is_refused() {
        let outside: &[&[Raw]] = &[
            &[(EntryType::Regular, "../x", "", b"x")],
            &[(EntryType::Regular, "/x", "", b"x")],
            &[(EntryType::Regular, "a/../../x", "", b"x")],
            &[(EntryType::Symlink, "l", "/etc", b"")],
            &[(EntryType::Symlink, "l", "..", b"")],
            &[(EntryType::Symlink, "l", "", b"")],
            &[(EntryType::Symlink, "d/l", "../..", b"")],
            // The second link stays inside only by its text.
            &[
                (EntryType::Symlink, "d/e/up", "../..", b""),
                (EntryType::Symlink, "out", "d/e/up/..", b""),
            ],
            // A path through a link is refused, even when the link stays inside.
            &[
                (EntryType::Directory, "d", "", b""),
                (EntryType::Symlink, "l", "d", b""),
                (EntryType::Regular, "l/x", "", b"x"),
            ],
            &[(EntryType::Symlink, "l", "d", b""), (EntryType::Directory, "l", "", b"")],
            &[(EntryType::Directory, "d", "", b""), (EntryType::Regular, "d", "", b"x")],
            &[(EntryType::Link, "h", "/etc/passwd", b"")],
            &[(EntryType::Char, "c", "", b"")],
            &[(EntryType::Block, "b", "", b"")],
            &[(EntryType::Fifo, "p", "", b"")],
            &[(EntryType::GNUSparse, "s", "", b"")],
        ];
        for entries in outside {
            let (dir, result) = unpack_all(entries);
            assert!(result.is_err(), "{entries:?}");
            let names: Vec<_> =
                std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["in"], "{entries:?}");
        }
    }

    #[test]
    fn limits_hold_for_entries_bytes_and_names() {
        let many: Vec<_> = (0..11).map(|_| (EntryType::Regular, "f", "", &b""[..])).collect();
        assert!(matches!(unpack_all(&many).1, Err(UntarError::Limit(_))));
        assert!(matches!(
            unpack_all(&[(EntryType::Regular, "f", "", &[0; 1001])]).1,
            Err(UntarError::Limit(_))
        ));
        assert!(matches!(
            unpack_all(&[(EntryType::GNULongName, "f", "", &[b'a'; 5000])]).1,
            Err(UntarError::Limit(_))
        ));
        assert!(matches!(
            unpack_all(&[(EntryType::XHeader, "f", "", &[b'a'; 20000])]).1,
            Err(UntarError::Limit(_))
        ));
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let whole = tar(&[(EntryType::Regular, "f", "", &[1; 900])]);
        let dir = tempfile::tempdir().unwrap();
        assert!(extract_hostile(&whole[..1000], dir.path(), limits()).is_err());
    }

    #[test]
    fn a_workspace_replaces_what_is_there_and_keeps_its_links() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("old"), "a longer text").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        let bytes = tar(&[
            (EntryType::Regular, "a/b/one", "", b"1"),
            (EntryType::Regular, "a/b/two", "", b"2"),
            (EntryType::Regular, "old", "", b"new"),
            (EntryType::Regular, "link", "", b"no link any more"),
            (EntryType::Symlink, "a/out", "/outside", b""),
            (EntryType::Regular, "a/b/three", "", b"3"),
        ]);
        let me = std::fs::metadata(dir.path()).unwrap();
        let own = (me.uid(), me.gid());
        assert_eq!(extract_for(&bytes[..], dir.path(), own).unwrap().files, 6);
        for (name, text) in [
            ("a/b/one", "1"),
            ("a/b/two", "2"),
            ("a/b/three", "3"),
            ("old", "new"),
            ("link", "no link any more"),
        ] {
            assert_eq!(std::fs::read_to_string(at(name)).unwrap(), text, "{name}");
            let meta = std::fs::symlink_metadata(at(name)).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (own.0, 0o755), "{name}");
        }
        assert_eq!(std::fs::read_link(at("a/out")).unwrap(), Path::new("/outside"));
        for path in ["../up", "/abs", "a/out/through"] {
            assert!(
                extract_for(&tar(&[(EntryType::Regular, path, "", b"x")])[..], dir.path(), own)
                    .is_err(),
                "{path}"
            );
        }
    }
}
