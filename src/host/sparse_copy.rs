//! Copies of private files whose holes stay holes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Copies what is in the directory `from` into the directory `to`: files, with mode 0600, and
/// directories, with 0700. Nothing else may be in it, and nothing that is there is replaced.
///
/// # Errors
/// As the file system's; `InvalidInput` for a link, a socket or a device.
pub fn copy_tree(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, place) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            DirBuilder::new().mode(0o700).create(&place)?;
            copy_tree(entry.path(), &place)?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &place)?;
        } else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is no file", entry.path().display()),
            ));
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    to.set_len(from.metadata()?.len())?;
    let mut at = 0;
    while let Some(start) = seek(&from, at, Whence::SeekData)? {
        let end = seek(&from, start, Whence::SeekHole)?.unwrap_or(start);
        from.seek(SeekFrom::Start(start.unsigned_abs()))?;
        to.seek(SeekFrom::Start(start.unsigned_abs()))?;
        io::copy(&mut (&from).take((end - start).unsigned_abs()), &mut to)?;
        at = end;
    }
    Ok(())
}

/// The next place from `at` on of data, or of a hole; `None` behind the last one.
fn seek(file: &File, at: i64, next: Whence) -> io::Result<Option<i64>> {
    match lseek(file, at, next) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_copied_is_the_same_and_takes_no_more_room() {
        let home = tempfile::tempdir().expect("dir");
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        for dir in [&from.join("in/it"), &to] {
            fs::create_dir_all(dir).expect("a directory");
        }
        fs::write(from.join("in/it/small"), "text").expect("a file");
        fs::write(from.join("empty"), "").expect("a file");
        let mut disk = File::create(from.join("disk")).expect("a disk");
        disk.set_len(1 << 30).expect("a length");
        for at in [0, 5 << 20, (1 << 30) - 4096] {
            disk.seek(SeekFrom::Start(at)).expect("seek");
            disk.write_all(&[7; 4096]).expect("write");
        }
        copy_tree(&from, &to).expect("copied");
        assert_eq!(fs::read_to_string(to.join("in/it/small")).expect("read"), "text");
        assert_eq!(fs::read(to.join("empty")).expect("read"), b"");
        let copy = fs::metadata(to.join("disk")).expect("a disk");
        assert_eq!((copy.len(), copy.mode() & 0o777), (1 << 30, 0o600));
        assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
        let mut read = File::open(to.join("disk")).expect("open");
        for (at, byte) in [(0, 7), (4096, 0), (5 << 20, 7), ((1 << 30) - 1, 7)] {
            let mut found = [1];
            read.seek(SeekFrom::Start(at)).expect("seek");
            read.read_exact(&mut found).expect("read");
            assert_eq!(found, [byte], "at {at}");
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let home = tempfile::tempdir().expect("dir");
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        fs::create_dir_all(&from).expect("a directory");
        fs::create_dir_all(&to).expect("a directory");
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).expect("a link");
        assert_eq!(copy_tree(&from, &to).expect_err("refused").kind(), io::ErrorKind::InvalidInput);
    }
}
