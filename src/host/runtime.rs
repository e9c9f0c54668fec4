//! The one runtime of a command.

use crate::error::{Context, Kind, Result};

/// Runs `future` on this thread. Children must be spawned by the main thread: the kernel ties their
/// lives to it.
///
/// # Errors
/// That of `future`, or the runtime cannot be started.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(Kind::Internal, || "cannot start the runtime".into())?;
    let result = runtime.block_on(future);
    // A thread may still be blocked in a read of standard input; it must not delay the exit.
    runtime.shutdown_background();
    result
}
