//! What happens to a push, from its list of refs to the upstream's answer.

pub mod attest;
pub mod commands;
pub mod receive;
pub mod ref_policy;
pub mod revwalk;
