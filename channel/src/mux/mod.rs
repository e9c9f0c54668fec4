//! The stream multiplexer.
//!
//! Why not yamux: read as a parser of hostile bytes, yamux 0.13.10 lets the peer (1) panic the
//! driver with an overflowing credit in a SYN (debug builds; `connection.rs`,
//! `frame.header().credit() + DEFAULT_CREDIT`), (2) grow memory without limit with empty data
//! frames on a stream nobody reads, and 60-fold with one-byte frames, (3) leave a writer waiting
//! for ever when the other end half-closed and then dropped a stream, and they deadlock when both
//! ends owe a pong while both directions are full. tokio-yamux 0.3.20 stalled on an unread stream.
//! What is needed here is smaller than what they offer: one peer, no lazily opened streams, no
//! pings.
//!
//! # Wire format
//! `kind u8 | length u24 | stream u32`, little-endian, then `length` bytes:
//!
//! | kind | payload | meaning |
//! |---|---|---|
//! | 1 open | JSON header | a new stream; host ids are odd, guest ids even, both strictly rising |
//! | 2 data | 1 to 32 768 bytes | within the receiver's window |
//! | 3 window | u32 > 0 | that many bytes more may be sent |
//! | 4 fin | – | no more data from this end |
//! | 5 reset | – | this end has dropped the stream |
//!
//! # Bounds
//! Each stream starts with a window of [`INITIAL_WINDOW`] bytes in each direction. A stream that is
//! read grows up to [`MAX_WINDOW`] out of a shared [`GROWTH_POOL`]; one that is not read never
//! does. So the receive buffers of an end never exceed [`MAX_BUFFERED`]. An end never needs to
//! write in order to read, so no pattern of traffic can stall it, and whatever is queued to be
//! written is a flag of a live stream, not a queue the peer could grow.

mod driver;
mod state;
mod stream;
pub mod wire;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};

pub use driver::Driver;
use state::Shared;
pub use stream::ChannelStream;

use crate::{GuestOpen, HostOpen};

/// Receive window of a new stream in bytes.
pub const INITIAL_WINDOW: u32 = 64 * 1024;
/// Largest receive window of a stream in bytes.
pub const MAX_WINDOW: u32 = 1024 * 1024;
/// Bytes by which all windows of an end together may exceed [`INITIAL_WINDOW`].
pub const GROWTH_POOL: u32 = 16 * 1024 * 1024;
/// Streams that the guest may have open at the host; more are reset at once.
pub const MAX_GUEST_STREAMS: usize = 512;
/// Streams that the host may have open; [`Session::open`] waits for one to end.
pub const MAX_HOST_STREAMS: usize = 256;
/// Upper bound of the bytes that one end holds for its peer: 64 MiB.
pub const MAX_BUFFERED: usize =
    (MAX_GUEST_STREAMS + MAX_HOST_STREAMS) * INITIAL_WINDOW as usize + GROWTH_POOL as usize;
/// Largest header that the host sends (argv and environment are in it), in bytes.
pub const MAX_HOST_HEADER: usize = 1024 * 1024;
/// Largest header that the host reads from a guest, in bytes.
pub const MAX_GUEST_HEADER: usize = 256;

const _: () = assert!(MAX_BUFFERED == 64 * 1024 * 1024);
/// The guest opens fewer than the host takes: a stream can end a moment later at the host than at
/// the guest.
const GUEST_OPENS: usize = MAX_GUEST_STREAMS - 128;

/// Why a channel, or an attempt to open a stream on it, ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChannelError {
    /// The other end went away, or this end closed the session.
    #[error("the channel to the bottle is closed")]
    Closed,
    /// The byte stream failed.
    #[error("the channel to the bottle failed: {0}")]
    Io(String),
    /// The other end broke the protocol.
    #[error("protocol violation on the channel: {0}")]
    Protocol(&'static str),
    /// The header is too large to send.
    #[error("a request of {0} bytes is too large for the channel")]
    TooLarge(usize),
}

/// A cheap handle to one end of a channel; `O` is the only kind of header it can send.
pub struct Session<O> {
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    max_header: usize,
    kind: std::marker::PhantomData<fn(&O)>,
}

impl<O> Clone for Session<O> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            slots: self.slots.clone(),
            max_header: self.max_header,
            kind: self.kind,
        }
    }
}

impl<O> std::fmt::Debug for Session<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("closed", &self.closed()).finish_non_exhaustive()
    }
}

/// Streams that the peer opens, with their headers. Dropping it refuses all further ones.
#[derive(Debug)]
pub struct Incoming<I> {
    queue: mpsc::UnboundedReceiver<(I, ChannelStream)>,
}

impl<I> Incoming<I> {
    /// The next stream; `None` when the channel is closed. Headers that do not parse never show up:
    /// their streams are reset.
    pub async fn next(&mut self) -> Option<(I, ChannelStream)> {
        self.queue.recv().await
    }
}

impl Session<HostOpen> {
    /// The host's end of `io`, on which [`crate::host_handshake`] succeeded. Nothing moves unless
    /// the driver is polled: spawn it.
    pub fn host<S: AsyncRead + AsyncWrite + Unpin>(
        io: S,
    ) -> (Self, Incoming<GuestOpen>, Driver<S, GuestOpen>) {
        let limits = wire::Limits {
            host: true,
            max_header: MAX_GUEST_HEADER,
            max_peer_streams: MAX_GUEST_STREAMS,
        };
        start(io, limits, MAX_HOST_HEADER, MAX_HOST_STREAMS)
    }
}

impl Session<GuestOpen> {
    /// The guest's end of `io`, on which [`crate::guest_handshake`] succeeded.
    pub fn guest<S: AsyncRead + AsyncWrite + Unpin>(
        io: S,
    ) -> (Self, Incoming<HostOpen>, Driver<S, HostOpen>) {
        let limits = wire::Limits {
            host: false,
            max_header: MAX_HOST_HEADER,
            max_peer_streams: MAX_HOST_STREAMS + 64,
        };
        start(io, limits, MAX_GUEST_HEADER, GUEST_OPENS)
    }
}

fn start<S, O, I>(
    io: S,
    limits: wire::Limits,
    max_header: usize,
    opens: usize,
) -> (Session<O>, Incoming<I>, Driver<S, I>) {
    let shared = Arc::new(Shared::new(limits));
    let (sender, queue) = mpsc::unbounded_channel();
    let session = Session {
        shared: shared.clone(),
        slots: Arc::new(Semaphore::new(opens)),
        max_header,
        kind: std::marker::PhantomData,
    };
    (session, Incoming { queue }, Driver::new(io, shared, sender, limits))
}

impl<O: Serialize> Session<O> {
    /// Opens a stream. Waits while this end has as many open as it may; the caller sets a deadline.
    /// The peer answers on the stream or resets it.
    ///
    /// # Errors
    /// When the channel is closed or the header is too large.
    pub async fn open(&self, header: &O) -> Result<ChannelStream, ChannelError> {
        let header = serde_json::to_vec(header).map_err(|e| ChannelError::Io(e.to_string()))?;
        if header.len() > self.max_header {
            return Err(ChannelError::TooLarge(header.len()));
        }
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| ChannelError::Closed)?;
        let id = self.shared.open(header, slot)?;
        Ok(ChannelStream::new(self.shared.clone(), id))
    }
}

impl<O> Session<O> {
    /// Ends the channel: what is already written and within the peer's windows is sent, then the
    /// driver returns.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Whether the channel has ended.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.shared.lock().end.is_some()
    }
}

/// So that type parameters read as what they are.
pub(crate) trait Header: DeserializeOwned + Send + 'static {}
impl<T: DeserializeOwned + Send + 'static> Header for T {}
