//! The guest's body on its way to the upstream.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bottle_scan::{Direction, Stream};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::scan_buffer::ScanBuffer;
use crate::egress::meter::Meter;
use crate::egress::refusal::{Checks, Refusal, Rule};
use crate::egress::request::headers::strip_hop_by_hop;
use crate::egress::route::rules::RouteRules;

/// Largest body that is kept to be sent a second time with a fresh token, bytes.
const MAX_REPLAY_BYTES: usize = 1 << 20;

/// Most that is read of a body that goes nowhere, bytes.
const MAX_DRAIN_BYTES: usize = 64 << 20;

/// Longest time for which a body that goes nowhere is read.
const MAX_DRAIN_TIME: Duration = Duration::from_secs(15);

/// A copy of a body, to be sent again with another credential.
#[derive(Debug, Default)]
pub enum Replay {
    /// Nothing has passed yet.
    #[default]
    Nothing,
    /// The part that has passed so far.
    Part(Vec<u8>),
    /// The whole body.
    Whole(Bytes),
    /// The body is too large to keep.
    Lost,
}

/// The guest's body: counted, limited and searched as it streams.
pub struct Upload {
    inner: Option<Incoming>,
    meter: Arc<Meter>,
    rules: Arc<RouteRules>,
    checks: Checks,
    buffer: ScanBuffer,
    bytes_left: Option<u64>,
    size: u64,
    trailers: Option<HeaderMap>,
    replay: Option<Arc<Mutex<Replay>>>,
}

impl Upload {
    /// Counts `inner` in `meter` and against the limits of `rules`, and searches it with `scan`. A
    /// copy is kept in `replay`.
    pub fn new(
        inner: Incoming,
        meter: Arc<Meter>,
        rules: Arc<RouteRules>,
        checks: Checks,
        scan: Option<Stream>,
        replay: Option<Arc<Mutex<Replay>>>,
    ) -> Self {
        let (bytes_left, ended) = (inner.size_hint().exact(), inner.is_end_stream());
        let mut buffer = ScanBuffer::new(scan);
        buffer.ended = ended;
        if let Some(replay) = replay.as_ref().filter(|_| ended) {
            *replay.lock().unwrap_or_else(PoisonError::into_inner) = Replay::Whole(Bytes::new());
        }
        Self {
            inner: Some(inner),
            meter,
            rules,
            checks,
            buffer,
            bytes_left,
            size: 0,
            trailers: None,
            replay,
        }
    }

    /// The same body a second time. It was counted and searched when it was first sent.
    pub fn again(body: Bytes, meter: Arc<Meter>, rules: Arc<RouteRules>, checks: Checks) -> Self {
        let bytes_left = Some(body.len() as u64);
        let mut buffer = ScanBuffer::new(None);
        if !body.is_empty() {
            buffer.ready.push_back(body);
        }
        buffer.ended = true;
        Self {
            inner: None,
            meter,
            rules,
            checks,
            buffer,
            bytes_left,
            size: 0,
            trailers: None,
            replay: None,
        }
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        let len = chunk.len();
        self.meter.add_up(len);
        self.size += len as u64;
        check_size(&self.rules, self.size, &self.checks)?;
        self.rules.quota.up(len as u64, &self.rules.route.budget, &self.checks)?;
        let found = self.buffer.push(chunk);
        self.meter.note("body", &found, &self.checks)
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let found = self.buffer.finish();
        self.meter.note("body", &found, &self.checks)
    }

    fn take_trailers(&mut self, mut trailers: HeaderMap) -> Result<(), Refusal> {
        strip_hop_by_hop(&mut trailers);
        for name in [AUTHORIZATION, COOKIE, HOST, CONTENT_LENGTH] {
            trailers.remove(name);
        }
        if let Some(credential) = &self.rules.credential {
            credential.now().1.clear(&mut trailers, &mut None);
        }
        for (name, value) in &trailers {
            self.rules.quota.up(
                (name.as_str().len() + value.len()) as u64,
                &self.rules.route.budget,
                &self.checks,
            )?;
            for text in [name.as_str().as_bytes(), value.as_bytes()] {
                self.meter.note(
                    "trailers",
                    &self.rules.profile.text(Direction::Request, text),
                    &self.checks,
                )?;
            }
        }
        self.trailers = Some(trailers);
        Ok(())
    }

    /// Stops taking the body; see [`drain`].
    fn discard(&mut self) {
        if let Some(inner) = self.inner.take() {
            drain(inner);
        }
    }

    /// Adds `chunk` to the copy for a second attempt.
    fn keep(&self, chunk: &Bytes) {
        let Some(replay) = &self.replay else { return };
        let mut replay = replay.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = match std::mem::replace(&mut *replay, Replay::Lost) {
            Replay::Nothing => Vec::new(),
            Replay::Part(kept) => kept,
            Replay::Whole(_) | Replay::Lost => return,
        };
        if kept.len() + chunk.len() <= MAX_REPLAY_BYTES {
            kept.extend_from_slice(chunk);
            *replay = if self.buffer.is_done() && self.trailers.is_none() {
                Replay::Whole(kept.into())
            } else {
                Replay::Part(kept)
            };
        }
    }

    /// Marks that the copy is whole.
    fn complete_copy(&self) {
        let Some(replay) = &self.replay else { return };
        let mut replay = replay.lock().unwrap_or_else(PoisonError::into_inner);
        *replay = match std::mem::replace(&mut *replay, Replay::Lost) {
            Replay::Nothing => Replay::Whole(Bytes::new()),
            Replay::Part(kept) => Replay::Whole(kept.into()),
            other => other,
        };
    }
}

/// Reads the rest of a body that goes nowhere for a while and throws it away. Many clients read the
/// answer only after they have sent the whole body. In HTTP/2 a body that nobody reads is reset, and
/// then curl reports an error of the framing layer instead of the answer.
pub fn drain(mut body: Incoming) {
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn(async move {
        let mut left = MAX_DRAIN_BYTES;
        let _ = timeout(MAX_DRAIN_TIME, async {
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    break;
                }
            }
        })
        .await;
    });
}

/// Compares a body's announced or counted `size` in bytes with the route's `max_body`.
///
/// # Errors
/// [`Rule::MaxBody`].
pub fn check_size(rules: &RouteRules, size: u64, checks: &Checks) -> Result<(), Refusal> {
    let Some(most) = rules.route.max_body else { return Ok(()) };
    checks.refuse_if(size > most, Rule::MaxBody, || {
        format!("the body is larger than the {most} bytes that route {} allows", rules.route.name)
    })
}

/// The upstream could not be reached, or has answered without reading the whole body.
impl Drop for Upload {
    fn drop(&mut self) {
        if !self.buffer.ended {
            self.discard();
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let me = self.get_mut();
        loop {
            if let Some(chunk) = me.buffer.ready.pop_front() {
                if chunk.is_empty() {
                    continue;
                }
                me.bytes_left = me.bytes_left.map(|left| left.saturating_sub(chunk.len() as u64));
                me.keep(&chunk);
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if let Some(trailers) = me.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if me.meter.is_closed() && !me.buffer.ended {
                let over = Refusal::new(
                    Rule::Aborted,
                    "the request's body goes on after the end of its response",
                );
                me.discard();
                return Poll::Ready(Some(Err(me.meter.refuse_upload(over))));
            }
            let Some(inner) = me.inner.as_mut().filter(|_| !me.buffer.ended) else {
                me.complete_copy();
                return Poll::Ready(None);
            };
            let step = match ready!(Pin::new(&mut *inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => {
                        let last = inner.is_end_stream();
                        me.take(chunk).and_then(|()| if last { me.end() } else { Ok(()) })
                    }
                    Err(other) => match other.into_trailers() {
                        Ok(trailers) => me.end().and_then(|()| me.take_trailers(trailers)),
                        Err(_) => Ok(()),
                    },
                },
                Some(Err(e)) => Err(broken(&e)),
                None => me.end(),
            };
            if let Err(refusal) = step {
                me.buffer.ready.clear();
                me.discard();
                return Poll::Ready(Some(Err(me.meter.refuse_upload(refusal))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.buffer.is_done() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes_left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Why the guest's body broke off.
fn broken(e: &hyper::Error) -> Refusal {
    let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<io::Error>());
    match source.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidData) => {
            Refusal::new(Rule::Chunk, "the chunks of the body are not well-formed")
        }
        _ => Refusal::new(
            Rule::Aborted,
            "the bottle closed the connection inside the request's body",
        ),
    }
}
