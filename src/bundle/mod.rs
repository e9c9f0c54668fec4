//! The bundle: the sidecar daemons of one bottle, and the runtimes that can run them.

mod original;
mod process;
mod shared;

pub use process::HostProcesses;
pub use shared::{Bundle, BundleRuntime, BundleSpec, GateSpec};
