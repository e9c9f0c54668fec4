//! One stream of a channel.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::{MAX_SEND_BYTES, Shared};

/// A byte stream whose two directions close independently. `shutdown` half-closes it. Dropping it
/// without `shutdown` resets it: the peer's reader gets `ConnectionReset` instead of an end of
/// file. `flush` returns at once, because the driver sends what is written without it.
pub struct ChannelStream {
    shared: Arc<Shared>,
    id: u32,
}

impl ChannelStream {
    pub(super) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self { shared, id }
    }
}

impl std::fmt::Debug for ChannelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChannelStream({})", self.id)
    }
}

impl Drop for ChannelStream {
    fn drop(&mut self) {
        self.shared.lock().detach(self.id);
    }
}

impl AsyncRead for ChannelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut inner = self.shared.lock();
        let ended = inner.end.is_some();
        let Some(entry) = inner.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        };
        let mut n = 0;
        let (a, b) = entry.recv.as_slices();
        for part in [a, b] {
            let take = part.len().min(buf.remaining());
            buf.put_slice(&part[..take]);
            n += take;
        }
        if n > 0 {
            entry.recv.drain(..n);
            // At most MAX_WINDOW bytes are ever buffered.
            #[allow(clippy::cast_possible_truncation)]
            inner.consumed(self.id, n as u32);
            return Poll::Ready(Ok(()));
        }
        if entry.recv_fin {
            return Poll::Ready(Ok(()));
        }
        if entry.reset || ended {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        entry.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for ChannelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.shared.lock();
        let ended = inner.end.is_some();
        let Some(entry) = inner.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        };
        if entry.reset || entry.fin || ended {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let n = bytes.len().min(MAX_SEND_BYTES - entry.send.len());
        if n == 0 && !bytes.is_empty() {
            entry.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        entry.send.extend(&bytes[..n]);
        inner.queue_data(self.id);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.shared.lock();
        let Some(entry) = inner.streams.get_mut(&self.id) else { return Poll::Ready(Ok(())) };
        entry.fin = true;
        inner.queue_data(self.id);
        Poll::Ready(Ok(()))
    }
}
