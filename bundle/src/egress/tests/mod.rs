//! The proxy between a guest and an upstream, over real sockets on loopback.

mod attacks;
mod behaviour;
mod harness;
mod protocols;
