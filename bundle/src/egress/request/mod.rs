//! Where a request goes and what it asks for.

pub mod agreement;
pub mod authority;
pub mod destination;
pub mod headers;
pub mod readings;
pub mod target;
