//! The accept loop, and the time that open connections get at the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// Pause after a failed accept(2), usually for lack of file descriptors.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Hands each connection to `serve` with its slot, until `ending` becomes true. The connection
/// counts towards `max` until the slot is dropped. Connections over `max` are not refused: they
/// wait in the socket's backlog.
///
/// # Errors
/// The listener is broken for good.
pub async fn accept_until(
    listener: UnixListener,
    max: usize,
    mut ending: watch::Receiver<bool>,
    mut serve: impl FnMut(UnixStream, OwnedSemaphorePermit),
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(max));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            _ = ending.wait_for(|end| *end) => return Ok(()),
        };
        match accepted {
            Ok((stream, slot)) => serve(stream, slot),
            Err(e) if is_fatal(&e) => return Err(e),
            Err(e) => {
                tracing::warn!("accept: {e}");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    Ok((listener.accept().await?.0, slot))
}

/// True for errors that no later accept(2) on the same listener can recover from.
fn is_fatal(e: &io::Error) -> bool {
    e.raw_os_error().is_some_and(|n| {
        matches!(Errno::from_raw(n), Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK)
    })
}

/// Waits at most `time` for `tasks` to finish. Returns how many are still running.
pub async fn drain(tasks: &TaskTracker, time: Duration) -> usize {
    tasks.close();
    match timeout(time, tasks.wait()).await {
        Ok(()) => 0,
        Err(_) => tasks.len(),
    }
}
