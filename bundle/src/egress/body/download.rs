//! The upstream's body on its way to the guest.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bottle_scan::{Profile, Stream};
use bytes::Bytes;
use http::header::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::scan_buffer::ScanBuffer;
use crate::egress::audit::RequestAudit;
use crate::egress::limits::RouteTimes;
use crate::egress::refusal::{Checks, Refusal, Rule};
use crate::egress::request::headers::{hide_secrets, strip_hop_by_hop};
use crate::egress::route::rules::{RouteRules, TimeLimit};

/// The upstream's body: counted, searched, and given up when it falls silent. Its end, of whatever
/// kind, writes the closing audit line.
pub struct Download {
    inner: Incoming,
    audit: RequestAudit,
    rules: Arc<RouteRules>,
    profile: Profile,
    checks: Checks,
    buffer: ScanBuffer,
    trailers: Option<HeaderMap>,
    times: RouteTimes,
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Download {
    /// Counts `inner` for `audit` and searches it with `scan`. Gives up when `times` have passed.
    pub fn new(
        inner: Incoming,
        audit: RequestAudit,
        (rules, profile): (Arc<RouteRules>, Profile),
        checks: Checks,
        scan: Option<Stream>,
        times: RouteTimes,
    ) -> Self {
        let deadline = audit.meter().started() + times.total;
        let timer = Box::pin(sleep_until((Instant::now() + times.idle).min(deadline)));
        Self {
            inner,
            audit,
            rules,
            profile,
            checks,
            buffer: ScanBuffer::new(scan),
            trailers: None,
            times,
            deadline,
            timer,
        }
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        let len = chunk.len();
        self.audit.meter().add_down(len);
        self.rules.quota.down(len as u64, &self.rules.route.budget, &self.checks)?;
        let found = self.buffer.push(chunk);
        self.audit.meter().note("response", &found, &self.checks)
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let found = self.buffer.finish();
        self.audit.meter().note("response", &found, &self.checks)
    }

    fn fail(&mut self, refusal: &Refusal) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.buffer.ready.clear();
        self.audit.fail(refusal);
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
    }

    /// The next frame of the body.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(chunk) = self.buffer.ready.pop_front() {
                if self.is_done() {
                    self.audit.finish(); // hyper does not poll a body of known length past its end
                }
                if chunk.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if let Some(trailers) = self.trailers.take() {
                self.audit.finish();
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if self.buffer.ended {
                self.audit.finish();
                return Poll::Ready(None);
            }
            // A request whose body was cut off gets no more of its response.
            if let Some(refusal) = self.audit.meter().upload_refusal() {
                return self.fail(&refusal);
            }
            let step = ready!(self.poll_upstream(cx));
            if let Err(refusal) = step {
                return self.fail(&refusal);
            }
        }
    }

    /// Takes the next part of the body from the upstream into the buffer.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let next = (Instant::now() + self.times.idle).min(self.deadline);
                self.timer.as_mut().reset(next);
                match frame.into_data() {
                    Ok(chunk) => {
                        let last = self.inner.is_end_stream();
                        self.take(chunk).and_then(|()| if last { self.end() } else { Ok(()) })
                    }
                    Err(other) => {
                        self.trailers = other.into_trailers().ok().map(|mut trailers| {
                            strip_hop_by_hop(&mut trailers);
                            if self.buffer.scans() {
                                hide_secrets(&mut trailers, &self.profile, &self.audit);
                            }
                            trailers
                        });
                        self.end()
                    }
                }
            }
            Poll::Ready(Some(Err(_))) => {
                let cut = self.audit.meter().upload_refusal();
                Err(cut.unwrap_or_else(|| {
                    Refusal::new(Rule::Upstream, "the upstream broke off inside its response")
                }))
            }
            Poll::Ready(None) => self.end(),
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(cx));
                let late = Instant::now() >= self.deadline;
                let limit = if late { TimeLimit::Total } else { TimeLimit::Idle };
                Err(self.rules.timed_out(limit, self.times))
            }
        })
    }

    /// Whether the guest has the whole body.
    pub fn is_done(&self) -> bool {
        self.buffer.is_done() && self.trailers.is_none()
    }

    /// Bytes that are still to come, if that is known.
    pub fn size_hint(&self) -> SizeHint {
        // The scanner overwrites and never changes the length; what it holds back is part of what
        // is left.
        let exact = self.inner.size_hint().exact();
        exact
            .filter(|_| !self.buffer.scans() || self.audit.meter().down() == 0)
            .map_or_else(SizeHint::default, |left| {
                SizeHint::with_exact(left + self.buffer.ready_bytes())
            })
    }
}
