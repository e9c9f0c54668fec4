//! The orchestrator: plans, launches and tears down bottles.
//!
//! Dependencies point downward only: `cli` → `launch` → {`plan`, `provision`, `machine`, `bundle`,
//! `provider`} → {`manifest`, `closure`, `state`, `pki`}. docs/architecture.md has the map.

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
pub mod launch;
pub mod live_policy;
pub mod logs;
pub mod machine;
pub mod manifest;
pub mod pki;
pub mod plan;
pub mod provider;
pub mod provision;
pub mod state;
pub mod supervise;
pub mod workspace;
