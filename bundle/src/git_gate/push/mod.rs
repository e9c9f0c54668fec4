//! A push, from its list of refs to the upstream's answer.

pub mod attest;
pub mod forward;
pub mod head;
pub mod pack;
pub mod receive;
pub mod ref_policy;
pub mod report;
pub mod revwalk;
pub mod upstream;
