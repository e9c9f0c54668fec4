//! A process gives up what it does not need, before it handles anything from a guest.
//!
//! In this order: [`begin`] first thing in `main`; then open what is needed; then [`seal`], before
//! any thread starts, because Landlock and seccomp bind to the calling thread and its future
//! children. What the kernel does not support is left out, and the [`Report`] says so.

pub mod exec;
mod grants;
mod landlock;
pub mod machine;
mod process;
mod seccomp;
mod steps;
mod userns;

pub use grants::{ConfineError, Grants, Network, Report, tls_client_files};
pub use steps::{begin, seal};
