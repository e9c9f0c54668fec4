//! Engines: how a micro-VM is started. All of them end in the same [`Running`] machine with the
//! same channel.

mod console;
mod disk;
mod image_cache;
mod probe;
mod qemu;
mod shared;
mod smolvm;

pub use disk::MKE2FS_ARGS;
pub use probe::{Virtualisation, virtualisation};
pub use qemu::Qemu;
pub use shared::{Engine, MachineSpec, Running};
pub use smolvm::{Smolvm, TESTED_VERSION as SMOLVM_TESTED};
