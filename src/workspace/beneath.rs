//! Opens the project's files. No symbolic link on the way to a file is followed: whoever wrote the
//! index or the links of a project cannot make a launch read files outside of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// A project's directory.
pub(super) struct ProjectDir(File);

impl ProjectDir {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        File::open(root).map(Self)
    }

    fn at(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(self.0.as_fd(), path, how)?)
    }

    /// The file at `path` (relative) for reading. It may be a FIFO by now, which is not waited for.
    pub(super) fn read(&self, path: &Path) -> io::Result<File> {
        self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map(File::from)
    }

    /// Whatever is at `path` (relative), a symbolic link itself too; not for reading.
    pub(super) fn look(&self, path: &Path) -> io::Result<File> {
        self.at(path, OFlag::O_PATH).map(File::from)
    }

    /// The target of the symbolic link at `path` (relative).
    pub(super) fn link(&self, path: &Path) -> io::Result<std::ffi::OsString> {
        Ok(nix::fcntl::readlinkat(self.look(path)?, "")?)
    }
}
