//! One-shot programs that send a single HTTPS request for the orchestrator, which never speaks to a
//! server itself.

pub mod client;
pub mod forge;
pub mod renew;
