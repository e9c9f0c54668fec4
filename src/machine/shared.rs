//! What all engines have in common: what a machine is, and how it is started.

use std::future::Future;

use bottle_channel::{GuestOpen, HostOpen, Incoming, Session};
use camino::Utf8PathBuf;

use super::console::Console;
use super::image_cache::CachedImage;
use crate::closure::StoreFile;
use crate::error::{Error, ErrorKind, Result};
use crate::host::process::Daemon;
use crate::state::Journal;

/// What an engine needs to know of a machine.
#[derive(Debug)]
pub struct MachineSpec<'a> {
    /// The bottle's name.
    pub slug: &'a str,
    /// The agent image, as this engine takes it.
    pub image: &'a StoreFile,
    /// The private writable disk (made anew by the engine).
    pub disk: Utf8PathBuf,
    /// Its size in bytes.
    pub disk_bytes: u64,
    /// The disk of an earlier launch, which is moved to `disk` and used instead of a new one.
    pub resumable_disk: Option<Utf8PathBuf>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Where the VMM's own messages go.
    pub log: Utf8PathBuf,
    /// A short path for a socket, for engines that need one to listen on.
    pub channel: Utf8PathBuf,
    /// Where engines keep images that they have to unpack.
    pub image_cache: Utf8PathBuf,
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
    pub(super) incoming: Option<Incoming<GuestOpen>>,
    /// The VMM.
    pub vmm: Daemon,
    pub(super) console: Console,
    /// Keeps the unpacked image from being removed while it is in use.
    pub(super) _image: Option<CachedImage>,
}

impl Running {
    /// The streams that the guest opens, for the one who serves them.
    ///
    /// # Errors
    /// `Internal` the second time.
    pub fn take_incoming(&mut self) -> Result<Incoming<GuestOpen>> {
        self.incoming.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the guest's streams are served already")
        })
    }

    /// `error` with what the guest's kernel said last.
    #[must_use]
    pub fn explain(&self, error: Error) -> Error {
        self.console.explain(error)
    }
}
