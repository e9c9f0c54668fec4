//! The sidecar daemons of a bottle, and the `confine` launcher.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
pub mod confine;
pub mod demo;
pub mod egress;
pub mod forge;
pub mod gate;
pub mod lifeline;
pub mod renew;
pub mod supervise;
pub mod watch;
