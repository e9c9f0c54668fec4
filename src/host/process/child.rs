//! One running child process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::ExitStatus;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A started process. Dropping it kills it, unless its program was to outlive this process.
#[derive(Debug)]
pub struct Child {
    handle: duct::Handle,
    /// Becomes readable when the process ends.
    pidfd: OwnedFd,
    kill_on_drop: bool,
    /// Our end of its standard input, where that is a pipe.
    pub stdin: Option<File>,
    /// Our end of its standard output, where that is a pipe.
    pub stdout: Option<File>,
    /// Our end of its standard error, where that is a pipe.
    pub stderr: Option<File>,
}

impl Child {
    pub(super) fn new(handle: duct::Handle, kill_on_drop: bool) -> io::Result<Self> {
        let pidfd = pidfd_open(id(&handle)).inspect_err(|_| drop(handle.kill()))?;
        Ok(Self { handle, pidfd, kill_on_drop, stdin: None, stdout: None, stderr: None })
    }

    /// Its process id, which stays its own until this is dropped or its status was read.
    #[must_use]
    pub fn pid(&self) -> i32 {
        id(&self.handle)
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    /// The process is not ours to wait for.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        Ok(self.handle.try_wait()?.map(|output| output.status))
    }

    /// Blocks until it ends.
    ///
    /// # Errors
    /// As [`Child::try_wait`].
    pub fn wait(&self) -> io::Result<ExitStatus> {
        Ok(self.handle.wait()?.status)
    }

    /// Waits until it ends, on the runtime. May be cancelled and called again.
    ///
    /// # Errors
    /// As [`Child::try_wait`], or the runtime cannot watch one more descriptor.
    pub async fn ended(&self) -> io::Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        let pidfd = self.pidfd.as_fd();
        // SAFETY: the borrow keeps the descriptor open for as long as it is registered.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
        loop {
            let mut readable = pidfd.readable().await?;
            match self.try_wait()? {
                Some(status) => return Ok(status),
                None => readable.clear_ready(),
            }
        }
    }

    /// Kills it; does nothing when it has ended.
    ///
    /// # Errors
    /// It may not be signalled, as it runs as another user by now.
    pub fn kill(&self) -> io::Result<()> {
        self.handle.kill()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Not waited for: duct reaps what is left at the next start.
        if self.kill_on_drop {
            let _ = self.kill();
        }
    }
}

fn id(handle: &duct::Handle) -> i32 {
    handle.pids().first().and_then(|pid| i32::try_from(*pid).ok()).unwrap_or_default()
}

/// A descriptor of the child `pid`, which must not be reaped yet.
fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers and returns a new descriptor, close-on-exec, or -1.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
