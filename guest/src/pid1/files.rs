//! Writing files and making directories of the guest.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

use bottle_channel::MakeDir;

/// Replaces the file at `path`: writes a new one next to it and renames it.
pub fn replace(path: &str, content: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    let temporary = format!("{path}.bottle-new");
    let _ = fs::remove_file(&temporary);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    io::Write::write_all(&mut file, content)?;
    std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    fs::rename(&temporary, path)
}

/// Appends `text` to a file, which may be new.
pub fn append(path: &str, text: &str) -> io::Result<()> {
    make_parents(Path::new(path), None, None)?;
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o644)
        .open(path)?
        .write_all(text.as_bytes())
}

/// Makes one directory, and the missing ones above it.
pub fn make_dir(dir: &MakeDir) -> io::Result<()> {
    let path = Path::new(&dir.path);
    if !path.is_absolute() {
        return Err(io::Error::other("not an absolute path"));
    }
    make_parents(path, Some(dir.uid), Some(dir.gid))?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e)
            if e.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(path)?.is_dir() => {
        }
        other => other?,
    }
    lchown(path, Some(dir.uid), Some(dir.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(dir.mode & 0o7777))
}

/// Makes the missing directories above `path`, with this owner.
pub fn make_parents(path: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if parent.as_os_str().is_empty() || parent.is_dir() {
        return Ok(());
    }
    make_parents(parent, uid, gid)?;
    fs::DirBuilder::new().mode(0o755).create(parent)?;
    lchown(parent, uid, gid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn replacing_a_symlink_leaves_its_target_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let meta = fs::metadata(&target).unwrap();
        replace(link.to_str().unwrap(), b"new", 0o640, meta.uid(), meta.gid()).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read(&link).unwrap(), b"new");
        assert_eq!(fs::metadata(&link).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
