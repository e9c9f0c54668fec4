//! Audit and daemon logs for people: one follower of growing files, one way to print a line.

pub mod follow;
pub mod render;
