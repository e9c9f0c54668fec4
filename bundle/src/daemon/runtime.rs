//! The tokio runtime of a daemon. Start it after `confine::seal`: threads inherit the confinement.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// What blocking tasks get to end in, after the daemon has drained its connections.
const SHUTDOWN: Duration = Duration::from_millis(200);

/// Runs `daemon` on this thread. Tasks that are still open when it returns are dropped, and write
/// their audit lines then.
///
/// # Errors
/// One line: the runtime cannot start, or what `daemon` returned.
pub fn run<T>(daemon: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    finish(Builder::new_current_thread().enable_all().build(), daemon)
}

/// Like [`run`], with worker threads for the tasks that `daemon` spawns.
///
/// # Errors
/// As for [`run`].
pub fn run_with_workers<T>(
    workers: usize,
    daemon: impl Future<Output = io::Result<T>>,
) -> Result<T, String> {
    finish(Builder::new_multi_thread().worker_threads(workers).enable_all().build(), daemon)
}

fn finish<T>(
    runtime: io::Result<Runtime>,
    daemon: impl Future<Output = io::Result<T>>,
) -> Result<T, String> {
    let runtime = runtime.map_err(|e| e.to_string())?;
    let ended = runtime.block_on(daemon);
    runtime.shutdown_timeout(SHUTDOWN);
    ended.map_err(|e| e.to_string())
}
