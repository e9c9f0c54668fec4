//! Bodies that stream through, counted, with a limit on silence.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::refusal::{Refusal, Rule};
use super::ticket::Ticket;

/// Counts of one request, shared by its two bodies and its audit line.
#[derive(Debug)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
    touched: Mutex<Instant>,
    upload_refusal: OnceLock<Refusal>,
}

impl Default for Meter {
    fn default() -> Self {
        let touched = Mutex::new(Instant::now());
        Self { up: AtomicU64::new(0), down: AtomicU64::new(0), touched, upload_refusal: OnceLock::new() }
    }
}

impl Meter {
    /// Body bytes from the guest.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Body bytes to the guest.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// When the request's head or a part of its body last came.
    pub fn touched(&self) -> Instant {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the guest's body broke off, if it did.
    pub fn upload_refusal(&self) -> Option<Refusal> {
        self.upload_refusal.get().cloned()
    }
}

/// The guest's body on its way up.
pub struct Upload {
    inner: Incoming,
    meter: Arc<Meter>,
}

impl Upload {
    /// Counts `inner` in `meter`.
    pub fn new(inner: Incoming, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let me = self.get_mut();
        let frame = ready!(Pin::new(&mut me.inner).poll_frame(cx));
        match &frame {
            Some(Ok(f)) => {
                me.meter.up.fetch_add(f.data_ref().map_or(0, |d| d.len() as u64), Ordering::Relaxed);
                *me.meter.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            Some(Err(e)) => {
                let bad = std::error::Error::source(e).and_then(|s| s.downcast_ref::<io::Error>());
                let refusal = match bad.map(io::Error::kind) {
                    Some(io::ErrorKind::InvalidData) => Refusal::new(Rule::Chunk, "the chunks of the body are not in order"),
                    _ => Refusal::new(Rule::Aborted, "the bottle closed the connection inside the request's body"),
                };
                let _ = me.meter.upload_refusal.set(refusal);
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The upstream's body on its way down. Its end, whichever it is, writes the audit line.
pub struct Download {
    inner: Incoming,
    ticket: Ticket,
    idle: Duration,
    quiet: Pin<Box<Sleep>>,
}

impl Download {
    /// Counts `inner` for `ticket` and gives up after `idle` without a byte.
    pub fn new(inner: Incoming, ticket: Ticket, idle: Duration) -> Self {
        Self { inner, ticket, idle, quiet: Box::pin(sleep(idle)) }
    }
}

/// What the guest is sent.
pub enum Reply {
    /// A short text.
    Text(Full<Bytes>),
    /// A body from upstream.
    Stream(Box<Download>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let me = match self.get_mut() {
            Self::Text(text) => return Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            Self::Stream(download) => download,
        };
        match Pin::new(&mut me.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(f))) => {
                me.ticket.meter().down.fetch_add(f.data_ref().map_or(0, |d| d.len() as u64), Ordering::Relaxed);
                me.quiet.as_mut().reset(Instant::now() + me.idle);
                if me.inner.is_end_stream() {
                    me.ticket.finish(); // hyper does not poll a body of known length past its end
                }
                Poll::Ready(Some(Ok(f)))
            }
            Poll::Ready(Some(Err(_))) => {
                me.ticket.fail(&Refusal::new(Rule::Upstream, "the upstream broke off inside its response"));
                Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
            }
            Poll::Ready(None) => {
                me.ticket.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(me.quiet.as_mut().poll(cx));
                me.ticket.fail(&Refusal::new(Rule::UpstreamTimeout, "the upstream fell silent inside its response"));
                Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Stream(download) => download.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Stream(download) => download.inner.size_hint(),
        }
    }
}
