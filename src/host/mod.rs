//! What the orchestrator asks of the host: child processes, git, private files, locks, /proc, the
//! terminal, standard error.

pub mod fs;
pub mod git;
pub mod lock;
pub mod process;
pub mod procfs;
pub mod runtime;
mod sparse_copy;
pub mod stderr;
pub mod terminal;

pub use sparse_copy::copy_tree;
