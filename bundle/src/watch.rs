//! A file that is replaced while a daemon runs: by a rename over it, or written anew.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Watches a file from its creation on; to be made before the daemon confines itself.
pub struct Watch {
    inotify: Inotify,
    name: OsString,
    path: PathBuf,
}

impl Watch {
    /// Watches the directory of `path`: a rename puts another file there.
    ///
    /// # Errors
    /// The system has no watch to give.
    pub fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        inotify.add_watch(dir, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        Ok(Self { inotify, name, path: path.to_owned() })
    }

    /// Calls `changed` after each change, in a thread of its own, as long as the process lives.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn run(self, mut changed: impl FnMut(&Path) + Send + 'static) -> io::Result<()> {
        std::thread::Builder::new().name("reload".to_owned()).stack_size(512 * 1024).spawn(
            move || {
                loop {
                    match self.inotify.read_events() {
                        // After an overflow nobody knows what it was.
                        Ok(events) => {
                            if events.iter().any(|e| {
                                e.name.as_ref() == Some(&self.name)
                                    || e.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
                            }) {
                                changed(&self.path);
                            }
                        }
                        Err(Errno::EINTR) => {}
                        Err(e) => {
                            return tracing::error!(
                                "{} is not watched any more: {e}",
                                self.path.display()
                            );
                        }
                    }
                }
            },
        )?;
        Ok(())
    }
}
