//! The orchestrator: plans, launches and tears down bottles.
//!
//! A module imports only from the lines below its own; `tests/architecture.rs` checks it, and
//! docs/architecture.md has the map of files.
//!
//! ```text
//! cli
//! dashboard
//! launch
//! supervise, credentials, workspace
//! live_policy, machine, bundle, provision
//! logs
//! manifest_files
//! plan
//! manifest
//! provider
//! closure
//! state, pki
//! host
//! values, humanize
//! error, checks, fault_injection
//! ```

#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used))]

pub mod bundle;
mod checks;
pub mod cli;
pub mod closure;
pub mod credentials;
pub mod dashboard;
pub mod error;
pub mod fault_injection;
pub mod host;
pub mod humanize;
pub mod launch;
pub mod live_policy;
pub mod logs;
pub mod machine;
pub mod manifest;
pub mod manifest_files;
pub mod pki;
pub mod plan;
pub mod provider;
pub mod provision;
pub mod state;
pub mod supervise;
pub mod values;
pub mod workspace;
