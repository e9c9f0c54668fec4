//! HTTP/1 as it arrives from the guest, read strictly.

pub mod chunked;
pub mod request_head;
pub mod strict_reader;
