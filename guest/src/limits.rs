//! Resource limits of a guest.

/// Limit for open files, which every process inherits. 1024 is too few for a relay; a million makes
/// programs slow that close every possible descriptor.
pub const MAX_OPEN_FILES: u64 = 65536;
