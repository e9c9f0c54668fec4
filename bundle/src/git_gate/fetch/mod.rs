//! The mirror of an upstream, and the fetches that it answers.

pub mod initial_clone;
pub mod mirror;
pub mod serve;
pub mod upstream_refs;
