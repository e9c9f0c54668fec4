//! Finds and reads a manifest and the files around it. `manifest` itself touches no file.

mod dir_files;
mod find;

pub use dir_files::DirFiles;
pub use find::{FILE_NAME, Search, USER_SKILLS, find, load};
