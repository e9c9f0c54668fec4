//! Types that all engines share: the specification of a machine, and a running machine.

use std::future::Future;

use bottle_channel::{GuestOpen, HostOpen, Incoming, Session};
use camino::Utf8PathBuf;

use super::console::Console;
use super::image_cache::CachedImage;
use crate::closure::StoreFile;
use crate::error::{Error, ErrorKind, Result};
use crate::host::process::Daemon;
use crate::state::Journal;

/// Everything that an engine needs to start a machine.
#[derive(Debug)]
pub struct MachineSpec<'a> {
    /// The bottle's name.
    pub slug: &'a str,
    /// The agent image, in this engine's format.
    pub image: &'a StoreFile,
    /// The private writable disk, which the engine makes.
    pub disk: Utf8PathBuf,
    /// Its size in bytes.
    pub disk_bytes: u64,
    /// The disk of an earlier launch, which is moved to `disk` and used instead of a new one.
    pub resumable_disk: Option<Utf8PathBuf>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The file for the VMM's own messages.
    pub log: Utf8PathBuf,
    /// A short socket path, for engines that need a socket to listen on.
    pub channel: Utf8PathBuf,
    /// The directory where engines keep images that they have unpacked.
    pub image_cache: Utf8PathBuf,
}

/// A way to run machines.
pub trait Engine {
    /// The name that `--engine` takes.
    fn name(&self) -> &'static str;

    /// Starts a machine and waits until its agent has answered and proved the launch's key.
    ///
    /// # Errors
    /// `Engine` when it cannot start, `Guest` when it is not ready in time; everything that was
    /// started is in the journal.
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
    /// Streams that the guest opens, until they are taken.
    pub(super) incoming: Option<Incoming<GuestOpen>>,
    /// The VMM.
    pub vmm: Daemon,
    pub(super) console: Console,
    /// Keeps the unpacked image from being removed while it is in use.
    pub(super) _image: Option<CachedImage>,
}

impl Running {
    /// Takes the streams that the guest opens, to serve them.
    ///
    /// # Errors
    /// `Internal` the second time.
    pub fn take_incoming(&mut self) -> Result<Incoming<GuestOpen>> {
        self.incoming.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the guest's streams are served already")
        })
    }

    /// `error` with the last lines of the guest's console.
    #[must_use]
    pub fn explain(&self, error: Error) -> Error {
        self.console.explain(error)
    }
}
