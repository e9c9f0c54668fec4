//! WebSocket (RFC 6455): a handshake that both sides agree on, then frames that are searched like
//! bodies.

pub mod frames;
pub mod handshake;
pub mod relay;
