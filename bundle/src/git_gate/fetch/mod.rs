//! The mirror of one upstream, and how a guest fetches from it.

pub mod initial_clone;
pub mod mirror;
