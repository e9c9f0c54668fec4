//! The scan of pushed objects for credentials and dangerous paths.

pub mod archive;
pub mod cat_file;
pub mod finding;
pub mod gitleaks;
pub mod push_scan;
pub mod text_window;
pub mod tree_paths;
