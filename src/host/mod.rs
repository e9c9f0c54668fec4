//! What the orchestrator asks of the host: child processes, the terminal, standard error.

pub mod process;
pub mod runtime;
pub mod stderr;
#[allow(missing_docs)] // The macro that reads the size documents nothing.
pub mod terminal;
