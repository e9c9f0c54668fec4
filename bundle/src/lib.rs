//! The sidecar daemons of a bottle, and the `confine` launcher.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod confine;
pub mod daemon;
pub mod demo;
pub mod egress;
pub mod git_gate;
pub mod https;
pub mod supervise;
