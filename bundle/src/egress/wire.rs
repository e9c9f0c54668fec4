//! A strict reader of HTTP/1 framing in front of hyper.
//!
//! hyper repairs what it can (it drops Content-Length beside Transfer-Encoding, joins equal
//! Content-Lengths, takes a bare LF), which is right for a server and wrong for a guard: what is
//! repaired is not seen, and not audited. This reader passes on only heads that have one reading.
//! In place of any other head hyper gets [`SENTINEL`], a request that no guest can send, and the
//! handler answers it with the rule that it names.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio_rustls::server::TlsStream;

use super::chunked::{BadChunk, Chunked};
use super::head::{Framing, Head};
use super::refusal::Checks;

/// Method of the request that stands for a refused head; its path is `/` and the rule's code.
/// Methods from the guest are letters and `-` only.
pub const SENTINEL: &str = "~REFUSED";

/// Longest head, in bytes.
pub const MAX_HEAD: usize = 60 * 1024;

const READ: usize = 16 * 1024;

/// A connection that can tell a peer that sends no more from one that is gone.
pub trait Peer {
    /// Whether nobody is there to read an answer. Known of a socket that was closed, not of one
    /// behind a relay.
    fn is_gone(&self) -> bool;
}

impl Peer for UnixStream {
    fn is_gone(&self) -> bool {
        // The runtime knows already; this asks it and does not wait.
        let ready = std::pin::pin!(self.ready(Interest::WRITABLE))
            .poll(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_write_closed())
    }
}

impl<S: Peer> Peer for TlsStream<S> {
    fn is_gone(&self) -> bool {
        self.get_ref().0.is_gone()
    }
}

/// The bytes of `io`, in which every head was checked.
pub struct Wire<S> {
    io: S,
    checks: Checks,
    state: State,
    head: Head,
    /// Read, not yet understood.
    input: BytesMut,
    /// Understood, not yet passed on.
    output: BytesMut,
    eof: bool,
    open: Arc<Open>,
}

/// What the reader of a connection and the answers to it know of each other.
#[derive(Debug, Default)]
pub struct Open {
    half_closed: AtomicBool,
    unanswered: AtomicUsize,
}

impl Open {
    /// Whether the guest has closed its sending side: then the answer is the last.
    #[must_use]
    pub fn half_closed(&self) -> bool {
        self.half_closed.load(Ordering::Relaxed)
    }

    fn unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }

    /// One answer has reached its end.
    pub fn answered(&self) {
        let less = |n: usize| Some(n.saturating_sub(1));
        let _ = self.unanswered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

enum State {
    Head,
    Sized(u64),
    Chunked(Chunked),
    /// After CONNECT, the wish for a WebSocket, or a refused head nothing more is HTTP; hyper has
    /// to hand the connection back or close it.
    Held,
    Broken,
}

impl<S> Wire<S> {
    /// Checks `io` from a head on.
    pub fn new(io: S, checks: Checks) -> Self {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        Self {
            io,
            checks,
            state: State::Head,
            head: Head::default(),
            input,
            output,
            eof: false,
            open: Arc::default(),
        }
    }

    /// What its answers must know of it, and tell.
    pub fn open(&self) -> Arc<Open> {
        self.open.clone()
    }

    /// The connection after CONNECT, and what the guest sent behind that head.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.io, self.input)
    }

    /// Moves what can be passed on from `input` to `output`.
    fn understand(&mut self) {
        match &mut self.state {
            State::Head => match self.head.feed(&self.input, &self.checks) {
                Ok(None) => {}
                Ok(Some((len, framing))) => {
                    self.output = self.input.split_to(len);
                    self.head = Head::default();
                    self.open.unanswered.fetch_add(1, Ordering::Relaxed);
                    self.state = match framing {
                        Framing::Empty => State::Head,
                        Framing::Sized(n) => State::Sized(n),
                        Framing::Chunked => State::Chunked(Chunked::default()),
                        Framing::Tunnel => State::Held,
                    };
                }
                Err(refusal) => {
                    self.input.clear();
                    let code = refusal.rule.code();
                    let text = format!(
                        "{SENTINEL} /{code} HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n"
                    );
                    self.output.extend_from_slice(text.as_bytes());
                    self.state = State::Held;
                }
            },
            State::Sized(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                self.output = self.input.split_to(n);
                *left -= n as u64;
                if *left == 0 {
                    self.state = State::Head;
                }
            }
            State::Chunked(chunked) => match chunked.feed(&self.input) {
                Ok((n, done)) => {
                    self.output = self.input.split_to(n);
                    if done {
                        self.state = State::Head;
                    }
                }
                Err(BadChunk) => self.state = State::Broken,
            },
            State::Held | State::Broken => {}
        }
    }
}

impl<S: AsyncRead + Peer + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        loop {
            if me.output.is_empty() && !me.input.is_empty() {
                me.understand();
            }
            if !me.output.is_empty() {
                let n = me.output.len().min(buf.remaining());
                buf.put_slice(&me.output[..n]);
                me.output.advance(n);
                return Poll::Ready(Ok(()));
            }
            match me.state {
                // No waker is kept: what hyper waits for then is its own answer to be written.
                State::Held => return Poll::Pending,
                State::Broken => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, BAD_CHUNK)));
                }
                // It may still wait for the answer to what it has sent, and hyper would take the
                // end for a farewell.
                State::Head if me.eof && me.open.unanswered() => return Poll::Pending,
                _ if me.eof => return Poll::Ready(Ok(())),
                _ => {}
            }
            me.input.reserve(READ);
            // Nothing is lost when this is dropped while it waits: then it has read nothing.
            let read = std::pin::pin!(me.io.read_buf(&mut me.input));
            me.eof = ready!(read.poll(cx))? == 0;
            if me.eof {
                if me.io.is_gone() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                me.open.half_closed.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Text of the error for a body whose chunks are not in order.
pub const BAD_CHUNK: &str = "bad chunk";

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
