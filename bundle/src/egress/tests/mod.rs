//! The proxy between a guest and an upstream, over real sockets on loopback.

mod attacks;
mod behaviour;
mod early_answers;
mod harness;
mod protocols;
mod upstream;
