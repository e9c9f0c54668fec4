//! ssh for upstreams: its configuration file, keys that are held in memory, and the agent that signs
//! with them.

pub mod agent;
pub mod config;
pub mod key;
