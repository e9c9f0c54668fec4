//! The Unix socket that a daemon listens on.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket in bytes, unix(7).
const MAX_PATH_BYTES: usize = 107;

/// The file of a bound socket. Dropping it removes the file.
#[derive(Debug)]
#[must_use = "the socket's file is removed when this is dropped"]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A daemon that may write no file cannot remove it; the orchestrator does.
        let _ = fs::remove_file(&self.0);
    }
}

/// Listens at `path`, mode 0600. Replaces a socket on which nobody listens any more.
///
/// # Errors
/// One line: the path is too long, in use, or in a directory that cannot be written.
pub fn bind(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let listener = bind_private(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok((listener, SocketFile(path.to_owned())))
}

/// The listener for the accept loop. To be called inside the runtime.
///
/// # Errors
/// The runtime cannot watch the socket.
pub fn to_async(listener: UnixListener) -> io::Result<tokio::net::UnixListener> {
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "longer than the 107 bytes that a socket's path can have",
        ));
    }
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && UnixStream::connect(path).is_err() => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }?;
    // The umask 077 of confine::begin makes the socket private from its first moment.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The directory of `path`, `.` for a bare file name.
#[must_use]
pub fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
