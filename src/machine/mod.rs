//! Engines: how a micro-VM is started. All of them end in the same [`Running`] machine with the
//! same channel.

mod console;
mod disk;
mod image_cache;
mod probe;
mod qemu;
mod smolvm;

use std::future::Future;
use std::path::PathBuf;

use bottle_channel::{GuestOpen, HostOpen, Incoming, Session};

pub use disk::FORMAT;
pub use probe::{Virtualisation, virtualisation};
pub use qemu::Qemu;
pub use smolvm::{Smolvm, TESTED as SMOLVM_TESTED};

use crate::closure::StoreFile;
use crate::error::{Error, Kind, Result};
use crate::host::process::Daemon;
use crate::state::Journal;
use console::Console;
use image_cache::Unpacked;

/// What an engine needs to know of a machine.
#[derive(Debug)]
pub struct MachineSpec<'a> {
    /// The bottle's name.
    pub slug: &'a str,
    /// The agent image, as this engine takes it.
    pub image: &'a StoreFile,
    /// The private writable disk (made anew by the engine).
    pub disk: PathBuf,
    /// Its size in bytes.
    pub disk_bytes: u64,
    /// The disk of an earlier launch, which is to be used (and moved to `disk`) instead of a new
    /// one.
    pub saved: Option<PathBuf>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Where the VMM's own messages go.
    pub log: PathBuf,
    /// A short path for a socket, for engines that need one to listen on.
    pub channel: PathBuf,
    /// Where engines keep images that they have to unpack.
    pub unpacked: PathBuf,
}

/// A way to run machines.
pub trait Engine {
    /// The name that `--engine` takes.
    fn name(&self) -> &'static str;

    /// Starts a machine and waits until its agent has answered and proved the launch's key.
    ///
    /// # Errors
    /// `Engine` when it cannot start or is not ready in time; what it had started is in the
    /// journal.
    fn start(
        &self,
        spec: &MachineSpec<'_>,
        journal: &mut Journal,
    ) -> impl Future<Output = Result<Running>>;
}

/// A machine whose agent answers.
#[derive(Debug)]
pub struct Running {
    /// Opens streams to the guest.
    pub session: Session<HostOpen>,
    /// Streams that the guest opens, until somebody serves them.
    incoming: Option<Incoming<GuestOpen>>,
    /// The VMM.
    pub vmm: Daemon,
    console: Console,
    /// Keeps the unpacked image from being removed under it.
    _image: Option<Unpacked>,
}

impl Running {
    /// The streams that the guest opens, for the one who serves them.
    ///
    /// # Errors
    /// `Internal` the second time.
    pub fn take_incoming(&mut self) -> Result<Incoming<GuestOpen>> {
        self.incoming
            .take()
            .ok_or_else(|| Error::new(Kind::Internal, "the guest's streams are served already"))
    }

    /// `error` with what the guest's kernel said last.
    #[must_use]
    pub fn explain(&self, error: Error) -> Error {
        self.console.explain(error)
    }
}
