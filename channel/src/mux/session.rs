//! A handle to one end of a channel.

use std::sync::Arc;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};

use super::driver::Driver;
use super::error::ChannelError;
use super::limits::{
    MAX_GUEST_HEADER, MAX_GUEST_OPENS, MAX_GUEST_STREAMS, MAX_HOST_HEADER, MAX_HOST_STREAMS,
};
use super::state::Shared;
use super::stream::ChannelStream;
use super::wire;
use crate::open::{GuestOpen, HostOpen};

/// A handle to one end of a channel. It is cheap to clone. `O` is the kind of header that it sends.
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

/// Streams that the peer opens, with their headers. Dropping this refuses all further streams.
#[derive(Debug)]
pub struct Incoming<I> {
    queue: mpsc::UnboundedReceiver<(I, ChannelStream)>,
}

impl<I> Incoming<I> {
    /// The next stream; `None` when the channel is closed. A stream whose header cannot be parsed
    /// is reset and not returned.
    pub async fn next(&mut self) -> Option<(I, ChannelStream)> {
        self.queue.recv().await
    }
}

impl Session<HostOpen> {
    /// The host's end of `io`, on which [`crate::host_handshake`] has succeeded. Spawn the driver:
    /// no bytes move unless it is polled.
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
    /// The guest's end of `io`, on which [`crate::guest_handshake`] has succeeded.
    pub fn guest<S: AsyncRead + AsyncWrite + Unpin>(
        io: S,
    ) -> (Self, Incoming<HostOpen>, Driver<S, HostOpen>) {
        let limits = wire::Limits {
            host: false,
            max_header: MAX_HOST_HEADER,
            max_peer_streams: MAX_HOST_STREAMS + 64,
        };
        start(io, limits, MAX_GUEST_HEADER, MAX_GUEST_OPENS)
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
    /// Opens a stream. Waits while this end has its maximum number of streams open; the caller sets
    /// a deadline. The peer answers on the stream, or resets it.
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
    /// Closes the channel. The driver sends what is already written and fits the peer's windows,
    /// and then returns.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Whether the channel has ended.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.shared.lock().end.is_some()
    }
}
