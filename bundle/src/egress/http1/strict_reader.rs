//! A strict reader of HTTP/1 framing in front of hyper.
//!
//! hyper repairs what it can: it drops Content-Length beside Transfer-Encoding, joins equal
//! Content-Lengths, accepts a bare LF. That is right for a server and wrong for a guard, because
//! what was repaired is neither seen nor audited. This reader passes on only heads that every server
//! reads the same way. In place of any other head hyper gets [`SENTINEL`], a request that no guest
//! can send, and the handler answers it with the rule that its path names.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use super::chunked::{BadChunk, Chunked};
use super::request_head::{Framing, HeadReader};
use crate::egress::refusal::{Checks, Rule};

/// Method of the request that stands for a refused head; its path is `/` and the rule's code. A
/// guest's method has only letters and `-`.
pub const SENTINEL: &str = "~REFUSED";

/// Space for one read, bytes.
const READ_BYTES: usize = 16 * 1024;

/// A connection that can tell a peer that has closed its sending side from one that is gone.
pub trait Peer {
    /// Whether nobody is there to read an answer. This is known for a socket that was closed, not
    /// for one behind a relay.
    fn is_gone(&self) -> bool;
}

impl Peer for UnixStream {
    fn is_gone(&self) -> bool {
        // The runtime already knows; this polls once and does not wait.
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

/// The bytes of `io`, after every request head in them was checked.
pub struct StrictReader<S> {
    io: S,
    checks: Checks,
    state: State,
    head: HeadReader,
    /// Read, not yet parsed.
    input: BytesMut,
    /// Parsed, not yet passed on.
    output: BytesMut,
    eof: bool,
    open: Arc<OpenRequests>,
    /// Time for the rest of a head after its first byte.
    head_time: Duration,
    /// Runs while a head has begun and is not complete.
    head_timer: Option<Pin<Box<Sleep>>>,
}

/// Which requests of a connection still wait for the end of their answer. Shared by the reader of
/// the connection and the answers to it.
#[derive(Debug, Default)]
pub struct OpenRequests {
    half_closed: AtomicBool,
    unanswered: AtomicUsize,
}

impl OpenRequests {
    /// Whether the guest has closed its sending side, so that the next answer is the last.
    #[must_use]
    pub fn half_closed(&self) -> bool {
        self.half_closed.load(Ordering::Relaxed)
    }

    fn unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }

    /// Counts an answer that has reached its end.
    pub fn answered(&self) {
        let less = |n: usize| Some(n.saturating_sub(1));
        let _ = self.unanswered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

enum State {
    Head,
    Sized(u64),
    Chunked(Chunked),
    /// Nothing more is read as HTTP after CONNECT, a request for a WebSocket, or a refused head:
    /// hyper has to hand the connection back or close it.
    Held,
    Broken,
}

impl<S> StrictReader<S> {
    /// Reads `io` from the start of a head. A head must be complete within `head_time` after its
    /// first byte.
    pub fn new(io: S, checks: Checks, head_time: Duration) -> Self {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        Self {
            io,
            checks,
            state: State::Head,
            head: HeadReader::default(),
            input,
            output,
            eof: false,
            open: Arc::default(),
            head_time,
            head_timer: None,
        }
    }

    /// The requests that wait for their answer.
    pub fn open_requests(&self) -> Arc<OpenRequests> {
        self.open.clone()
    }

    /// The connection, and the bytes that the guest sent after the last head.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.io, self.input)
    }

    /// Passes on [`SENTINEL`] in place of the head.
    fn refuse(&mut self, rule: Rule) {
        self.input.clear();
        let code = rule.code();
        let text =
            format!("{SENTINEL} /{code} HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n");
        self.output.extend_from_slice(text.as_bytes());
        self.state = State::Held;
    }

    /// Refuses a head that has begun and was not complete in time.
    fn poll_head_time(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.state, State::Head) || self.input.is_empty() {
            return;
        }
        let time = self.head_time;
        let timer = self.head_timer.get_or_insert_with(|| Box::pin(sleep(time)));
        if timer.as_mut().poll(cx).is_ready() && self.checks.enabled(Rule::SlowHead) {
            self.refuse(Rule::SlowHead);
        }
    }

    /// Moves what can be passed on from `input` to `output`.
    fn parse(&mut self) {
        match &mut self.state {
            State::Head => match self.head.feed(&self.input, &self.checks) {
                Ok(None) => {}
                Ok(Some((len, framing))) => {
                    self.output = self.input.split_to(len);
                    self.head = HeadReader::default();
                    self.head_timer = None;
                    self.open.unanswered.fetch_add(1, Ordering::Relaxed);
                    self.state = match framing {
                        Framing::Empty => State::Head,
                        Framing::Sized(n) => State::Sized(n),
                        Framing::Chunked => State::Chunked(Chunked::default()),
                        Framing::Tunnel => State::Held,
                    };
                }
                Err(refusal) => self.refuse(refusal.rule),
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

impl<S: AsyncRead + Peer + Unpin> AsyncRead for StrictReader<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        loop {
            if me.output.is_empty() && !me.input.is_empty() {
                me.parse();
                if me.output.is_empty() {
                    me.poll_head_time(cx);
                }
            }
            if !me.output.is_empty() {
                let n = me.output.len().min(buf.remaining());
                buf.put_slice(&me.output[..n]);
                me.output.advance(n);
                return Poll::Ready(Ok(()));
            }
            match me.state {
                // No waker is kept: hyper then only waits for its own answer to be written.
                State::Held => return Poll::Pending,
                State::Broken => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, BAD_CHUNK)));
                }
                // The guest may still wait for an answer, and hyper would close the connection at
                // the end of input.
                State::Head if me.eof && me.open.unanswered() => return Poll::Pending,
                _ if me.eof => return Poll::Ready(Ok(())),
                _ => {}
            }
            me.input.reserve(READ_BYTES);
            // Dropping this future while it waits loses nothing, because it has read nothing.
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

/// Text of the error for a malformed chunked body.
const BAD_CHUNK: &str = "bad chunk";

impl<S: AsyncWrite + Unpin> AsyncWrite for StrictReader<S> {
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
