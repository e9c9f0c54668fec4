//! Bodies that stream through: counted, searched, and cut off when they may not go on.

pub mod download;
pub mod reply;
mod scan_buffer;
pub mod upload;
