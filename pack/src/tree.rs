//! A directory, or a few files, as a layer. Everything belongs to root and is one second old.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::layer::Layer;
use crate::{PackError, at};

/// Modification time of every entry, in seconds: some programs take 0 for "no time".
const MTIME: u64 = 1;

/// A directory with all that is in it, in the order of its names' bytes. Hard links become files of
/// their own: a store may make and lose them without a word, and they would be other bytes. Sockets
/// and devices are refused.
#[derive(Debug)]
pub struct Tree(pub PathBuf);

impl Layer for Tree {
    fn write(&self, to: &mut dyn Write) -> Result<(), PackError> {
        let mut tar = Builder::new(to);
        self.walk(Path::new(""), &mut tar)?;
        tar.finish().map_err(PackError::Write)
    }
}

impl Tree {
    fn walk(&self, below: &Path, tar: &mut Builder<&mut dyn Write>) -> Result<(), PackError> {
        let dir = self.0.join(below);
        let mut names: Vec<_> = fs::read_dir(&dir)
            .and_then(|d| d.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>())
            .map_err(at(&dir))?;
        names.sort_unstable();
        for name in names {
            let name = below.join(name);
            let path = self.0.join(&name);
            let meta = fs::symlink_metadata(&path).map_err(at(&path))?;
            let kind = meta.file_type();
            if kind.is_dir() {
                tar.append_data(
                    &mut header(EntryType::Directory, meta.mode(), 0),
                    name.join(""),
                    &[][..],
                )
                .map_err(at(&path))?;
                self.walk(&name, tar)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(at(&path))?;
                tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), &name, target)
                    .map_err(at(&path))?;
            } else if kind.is_file() {
                let file = fs::File::open(&path).map_err(at(&path))?;
                tar.append_data(
                    &mut header(EntryType::Regular, meta.mode(), meta.len()),
                    &name,
                    file,
                )
                .map_err(at(&path))?;
            } else {
                let what = if kind.is_socket() { "a socket" } else { "a device or pipe" };
                return Err(PackError::Source { path, why: format!("{what} cannot be packed") });
            }
        }
        Ok(())
    }
}

/// One file, with the directories above it, to lie over what the layers below have.
#[derive(Debug)]
pub struct File {
    /// What it is read from.
    pub from: PathBuf,
    /// Where it goes, relative to the root.
    pub to: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

impl Layer for File {
    fn write(&self, to: &mut dyn Write) -> Result<(), PackError> {
        let mut tar = Builder::new(to);
        let above: Vec<_> =
            self.to.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty()).collect();
        for dir in above.into_iter().rev() {
            tar.append_data(&mut header(EntryType::Directory, 0o755, 0), dir.join(""), &[][..])
                .map_err(PackError::Write)?;
        }
        let file = fs::File::open(&self.from).map_err(at(&self.from))?;
        let size = file.metadata().map_err(at(&self.from))?.len();
        tar.append_data(&mut header(EntryType::Regular, self.mode, size), &self.to, file)
            .map_err(at(&self.from))?;
        tar.finish().map_err(PackError::Write)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MTIME);
    header.set_size(size);
    header
}
