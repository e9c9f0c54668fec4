//! Advisory locks (flock), which end with their process.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
pub use nix::fcntl::Flock;
use nix::fcntl::FlockArg;

/// How a file is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By nobody else.
    Exclusive,
    /// By others that share it, too.
    Shared,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Somebody else has it; here is the file again.
    #[error("it is locked")]
    Held(File),
    /// flock(2) failed.
    #[error(transparent)]
    Failed(io::Error),
}

/// The lock of `file`, if nobody else has it.
///
/// # Errors
/// As [`Refused`] says.
pub fn try_lock(file: File, mode: Mode) -> Result<Flock<File>, Refused> {
    let how = match mode {
        Mode::Exclusive => FlockArg::LockExclusiveNonblock,
        Mode::Shared => FlockArg::LockSharedNonblock,
    };
    Flock::lock(file, how).map_err(|(file, e)| match e {
        Errno::EWOULDBLOCK => Refused::Held(file),
        e => Refused::Failed(e.into()),
    })
}

/// The exclusive lock of `file`, waiting at most `limit` for others to give it up.
///
/// # Errors
/// `WouldBlock` when they do not, else as flock(2).
pub async fn lock_within(mut file: File, limit: Duration) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + limit;
    loop {
        match try_lock(file, Mode::Exclusive) {
            Ok(lock) => return Ok(lock),
            Err(Refused::Held(again)) if Instant::now() < deadline => file = again,
            Err(Refused::Held(_)) => return Err(Errno::EWOULDBLOCK.into()),
            Err(Refused::Failed(e)) => return Err(e),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
