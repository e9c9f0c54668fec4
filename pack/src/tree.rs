//! A directory, or a single file, as a layer. Everything belongs to root, with a fixed time.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::error::{PackError, at};
use crate::layer::Layer;

/// Modification time of every entry, in seconds since 1970. It is not 0 because some programs take
/// 0 for "no time".
const MTIME: u64 = 1;

/// A directory with all its contents, sorted by the bytes of the names. Hard links become separate
/// files: a Nix store adds and removes hard links silently, and they would change the bytes.
/// Sockets, pipes and devices are refused.
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

/// One file, with the directories above it, that overlays the layers below.
#[derive(Debug)]
pub struct File {
    /// The file on the host.
    pub from: PathBuf,
    /// Its path in the image, relative to the root.
    pub to: PathBuf,
    /// Permission bits.
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
