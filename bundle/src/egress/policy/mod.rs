//! The policy in force: which route a request takes, and its replacement while the daemon runs.

mod dns_label;
pub mod live;
pub mod reload;
pub mod routes;
