//! Moves bytes between the transport and the streams.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::UnboundedSender;

use super::error::ChannelError;
use super::state::{Event, Shared};
use super::stream::ChannelStream;
use super::wire::{self, Limits, Parsed};

const READ_BUFFER: usize = 64 * 1024;

/// The future that moves a channel's bytes. It returns `Ok` when the peer closes the transport
/// between frames or the session was closed, and an error otherwise. Dropping it ends all streams
/// of the channel.
pub struct Driver<S, I> {
    io: S,
    shared: Arc<Shared>,
    /// The queue is unbounded, but each element counts as one of the peer's `max_peer_streams`.
    incoming: UnboundedSender<(I, ChannelStream)>,
    limits: Limits,
    input: Vec<u8>,
    start: usize,
    end: usize,
    output: Vec<u8>,
    written: usize,
    /// Writing to the transport failed. What it still holds for us is read to its end.
    broken: bool,
}

impl<S, I> std::fmt::Debug for Driver<S, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl<S, I> Driver<S, I> {
    pub(super) fn new(
        io: S,
        shared: Arc<Shared>,
        incoming: UnboundedSender<(I, ChannelStream)>,
        limits: Limits,
    ) -> Self {
        Self {
            io,
            shared,
            incoming,
            limits,
            input: vec![0; READ_BUFFER],
            start: 0,
            end: 0,
            output: Vec::new(),
            written: 0,
            broken: false,
        }
    }
}

impl<S, I> Drop for Driver<S, I> {
    fn drop(&mut self) {
        self.shared.lock().end(ChannelError::Closed);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, I: DeserializeOwned + Send + 'static> Driver<S, I> {
    /// Handles every complete frame in the input buffer, and then makes room for the rest of a
    /// partial one.
    fn parse(&mut self) -> Result<(), ChannelError> {
        let need = loop {
            match wire::parse(&self.input[self.start..self.end], &self.limits)? {
                Parsed::Need(need) => break need,
                Parsed::Frame(frame, used) => {
                    let event = self.shared.lock().receive(frame)?;
                    if let Event::Opened(id, header) = event {
                        // From here on the handle owns the stream: dropping it in any branch
                        // resets the stream.
                        let stream = ChannelStream::new(self.shared.clone(), id);
                        if let Ok(header) = serde_json::from_slice(header) {
                            let _ = self.incoming.send((header, stream));
                        }
                    }
                    self.start += used;
                }
            }
        };
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        // Only a long stream header can exceed the buffer, and `parse` has checked its length.
        if need > self.input.len() {
            self.input.resize(need, 0);
        } else if self.end == 0 && self.input.len() > READ_BUFFER {
            self.input.truncate(READ_BUFFER);
            self.input.shrink_to_fit();
        }
        Ok(())
    }

    /// Reads once. `Ready(true)` when bytes came, `Ready(false)` at the end of the transport.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ChannelError>> {
        let mut buf = ReadBuf::new(&mut self.input[self.end..]);
        match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) => Poll::Ready(Err(ChannelError::Io(e.to_string()))),
            Poll::Ready(Ok(())) => {
                let n = buf.filled().len();
                if n == 0 {
                    let cut = self.end != 0;
                    return Poll::Ready(if cut {
                        Err(ChannelError::Protocol("the channel ended inside a frame"))
                    } else {
                        Ok(false)
                    });
                }
                self.end += n;
                self.parse()?;
                Poll::Ready(Ok(true))
            }
        }
    }

    /// Writes until no frame is due or the transport is full. `Ready` when no frame is due.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
                let mut inner = self.shared.lock();
                inner.fill(&mut self.output);
                if self.output.is_empty() {
                    inner.driver = Some(cx.waker().clone());
                    break;
                }
            }
            if self.broken {
                self.written = self.output.len();
                continue;
            }
            match Pin::new(&mut self.io).poll_write(cx, &self.output[self.written..]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) if n > 0 => self.written += n,
                Poll::Ready(_) => {
                    self.broken = true;
                    self.written = self.output.len();
                }
            }
        }
        if self.output.capacity() > 4 * READ_BUFFER {
            self.output = Vec::new();
        }
        if self.broken {
            return Poll::Ready(());
        }
        Pin::new(&mut self.io).poll_flush(cx).map(|flushed| self.broken |= flushed.is_err())
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        loop {
            let output = self.poll_output(cx);
            if output.is_ready() {
                let inner = self.shared.lock();
                if inner.closing && inner.drained() {
                    return Poll::Ready(Ok(()));
                }
            }
            match self.poll_input(cx)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    // A frame that just came in may have made output due after `poll_output`, and
                    // nobody would wake us for it. While output is blocked, the transport's waker
                    // is enough.
                    let mut inner = self.shared.lock();
                    if output.is_ready() && !inner.drained() {
                        drop(inner);
                        continue;
                    }
                    if output.is_ready() {
                        inner.driver = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, I: DeserializeOwned + Send + 'static> Future
    for Driver<S, I>
{
    type Output = Result<(), ChannelError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let result = std::task::ready!(this.poll_step(cx));
        this.shared.lock().end(result.clone().err().unwrap_or(ChannelError::Closed));
        Poll::Ready(result)
    }
}
