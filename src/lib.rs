//! The orchestrator: plans, launches and tears down bottles.
//!
//! Dependencies point downward only: `cli` → `launch` → {`plan`, `provision`, `machine`, `bundle`,
//! `provider`} → {`manifest`, `closure`, `state`, `pki`}. docs/architecture.md has the map.

#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used))]

pub mod bundle;
pub mod cli;
pub mod closure;
pub mod error;
mod guards;
pub mod launch;
pub mod machine;
pub mod manifest;
pub mod pki;
pub mod plan;
pub mod process;
pub mod proposals;
pub mod provider;
pub mod provision;
pub mod sabotage;
pub mod say;
pub mod state;
pub mod workspace;
