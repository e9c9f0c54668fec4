//! Tokio runtimes.

use tokio::runtime::{Builder, Runtime};

/// A runtime on this thread.
pub fn current_thread() -> Result<Runtime, String> {
    Builder::new_current_thread().enable_all().build().map_err(|e| format!("runtime: {e}"))
}

/// A runtime with two worker threads.
pub fn two_threads() -> Result<Runtime, String> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().map_err(|e| format!("runtime: {e}"))
}
