//! Connections to upstreams: addresses, TLS, one pool for each route.

pub mod address;
pub mod client;
pub mod connector;
pub mod network;
pub mod resolver;
