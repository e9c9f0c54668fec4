//! The sidecar daemons of a bottle, and the `confine` launcher.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
pub mod confine;
pub mod daemon;
pub mod demo;
pub mod egress;
pub mod forge;
pub mod gate;
pub mod renew;
pub mod supervise;

// Old names, until git-gate, supervise and the API client use the kit.
#[doc(hidden)]
pub mod lifeline {
    pub use crate::daemon::control_stdin::ControlStdin as Lines;
}
#[doc(hidden)]
pub mod watch {
    pub use crate::daemon::policy_file::PolicyWatch as Watch;
}
