//! The search of pushed objects for credentials and for dangerous paths.

pub mod gitleaks;
pub mod objects;
pub mod tree_paths;
