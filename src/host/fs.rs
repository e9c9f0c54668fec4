//! Private files and directories of this user.

use std::fs::{DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use camino::Utf8PathBuf;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use zeroize::Zeroizing;

use crate::error::{Context, Error, ErrorKind, Result};

/// `path`, which must be UTF-8: paths of ours are written to JSON files and argument lists. `what`
/// is where it comes from, such as the variable's name.
///
/// # Errors
/// `Config` when it is not.
pub fn utf8(what: &str, path: impl AsRef<Path>) -> Result<Utf8PathBuf> {
    let path = path.as_ref();
    Utf8PathBuf::from_path_buf(path.to_owned()).map_err(|_| {
        Error::new(ErrorKind::Config, format!("{what} is not UTF-8: {path:?}"))
            .hint("export XDG_STATE_HOME=/a/path/in/UTF-8   # or HOME, XDG_RUNTIME_DIR")
    })
}

/// Whether `path` is a directory that only this user can change: whoever can rename in it could
/// swap a bottle's policy.
pub fn is_private_dir(path: impl AsRef<Path>) -> bool {
    fs::metadata(path.as_ref()).is_ok_and(|m| {
        m.is_dir() && m.uid() == nix::unistd::geteuid().as_raw() && m.mode() & 0o077 == 0
    })
}

/// Creates `path` with mode 0700 (parents too), or checks that it is this user's and makes it
/// private.
///
/// # Errors
/// `Io` when it cannot be made; `Config` when it is no directory or belongs to another user.
pub fn private_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(ErrorKind::Io, || format!("cannot create {}", path.display()))?;
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        let path = path.display();
        return Err(Error::new(
            ErrorKind::Config,
            format!("{path} is not a directory of this user"),
        )
        .hint(format!("ls -ld {path}   # remove it, or set XDG_STATE_HOME and XDG_RUNTIME_DIR")));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Writes `bytes` to `path` with mode 0600 so that a reader sees the old content or the new, never
/// a part.
///
/// # Errors
/// `Io` when the file cannot be written (a full disk, a read-only directory).
pub fn write_private(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let what = || format!("cannot write {}", path.display());
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir).context(ErrorKind::Io, what)?; // created 0600
    file.write_all(bytes).context(ErrorKind::Io, what)?;
    // Closed before the rename, so that a program that watches `path` sees one change.
    let file = file.into_temp_path();
    file.persist(path).map_err(|e| e.error).context(ErrorKind::Io, what)?;
    Ok(())
}

/// Reads a regular file of at most `limit` bytes, such as a credential. The buffer has its full
/// size from the start and is wiped when it is dropped.
///
/// # Errors
/// `Io` when it cannot be read, `Config` when it is no regular file or is larger.
pub fn read_small(path: impl AsRef<Path>, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    let path = path.as_ref();
    let bad = |why: String| Error::new(ErrorKind::Config, format!("{} is {why}", path.display()));
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(bad("not a regular file".into()));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(bad(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// The same for a file of UTF-8 text.
///
/// # Errors
/// As [`read_small`], and `Config` when it is not UTF-8.
pub fn read_small_text(path: impl AsRef<Path>, limit: usize) -> Result<Zeroizing<String>> {
    let path = path.as_ref();
    let mut bytes = read_small(path, limit)?;
    let text = String::from_utf8(std::mem::take(&mut *bytes));
    text.map(Zeroizing::new).map_err(|e| {
        drop(Zeroizing::new(e.into_bytes()));
        Error::new(ErrorKind::Config, format!("{} is not UTF-8 text", path.display()))
    })
}

/// Space that is free for this user on the file system of `dir`, MiB.
///
/// # Errors
/// `Io` when it cannot be read.
pub fn free_mib(dir: impl AsRef<Path>) -> Result<u64> {
    let dir = dir.as_ref();
    let found = nix::sys::statvfs::statvfs(dir)
        .context(ErrorKind::Io, || format!("cannot read {}", dir.display()))?;
    Ok((found.blocks_available() * found.fragment_size()) >> 20)
}

/// Removes the directory `path` with all that is in it, directories that may not be written
/// included. There may be none.
///
/// # Errors
/// As `remove_dir_all`.
pub fn remove_tree(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            unlock(path)?;
            fs::remove_dir_all(path)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Gives the owner every right to the directories below `path`.
fn unlock(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_path_that_is_not_utf8_is_named() {
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/home/\xff"));
        let error = utf8("HOME", path).unwrap_err();
        assert_eq!(error.to_string(), "HOME is not UTF-8: \"/home/\\xFF\"");
        assert!(error.kind() == ErrorKind::Config && error.hint_text().is_some());
    }

    #[test]
    fn a_small_file_is_read_and_anything_else_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(&**read_small(at("file"), 5).unwrap(), b"12345");
        assert_eq!(&**read_small_text(at("file"), 5).unwrap(), "12345");
        fs::write(at("binary"), b"\xff").unwrap();
        let refused = read_small_text(at("binary"), 5).unwrap_err();
        assert!(refused.to_string().ends_with("is not UTF-8 text"), "{refused}");
        for (name, limit, kind, why) in [
            ("file", 4, ErrorKind::Config, "larger than 4 bytes"),
            ("fifo", 4, ErrorKind::Config, "not a regular file"),
            ("absent", 4, ErrorKind::Io, "failed to open file"),
        ] {
            let error = read_small(at(name), limit).unwrap_err();
            assert!(error.kind() == kind && error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_an_open_one_becomes_private() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        assert!(!is_private_dir(&open));
        private_dir(&open).unwrap();
        assert!(is_private_dir(&open));
        std::os::unix::fs::symlink(&open, dir.path().join("link")).unwrap();
        let refused = private_dir(dir.path().join("link")).unwrap_err();
        assert!(refused.to_string().contains("is not a directory of this user"), "{refused}");
    }
}
