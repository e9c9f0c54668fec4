//! The size of a machine, and the account that an agent has in it.

use serde::{Deserialize, Serialize};

use super::quantity::ByteSize;

/// Size of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Virtual CPUs, 1 to 64.
    pub cpus: u8,
    /// Guest memory in bytes, whole MiB.
    pub memory: ByteSize,
    /// Private writable disk in bytes, whole MiB.
    pub disk: ByteSize,
}

impl Resources {
    /// What a bottle gets whose manifest names no size.
    pub const DEFAULT: Self =
        Self { cpus: 2, memory: ByteSize::mib(2048), disk: ByteSize::mib(10 * 1024) };
}

impl Default for Resources {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The agent's account in the guest, as its image defines it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// User that the agent runs as.
    pub user: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Its home in the guest.
    pub home: String,
    /// Working directory in the guest.
    pub workdir: String,
    /// `PATH` in the guest.
    pub path: String,
}
