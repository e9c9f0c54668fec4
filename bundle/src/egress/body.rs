//! Bodies that stream through: counted, searched, and cut off when they must not go on.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bottle_policy::Action;
use bottle_policy::audit::MAX_FINDINGS;
use bottle_scan::{Direction, Finding, Profile, Stream};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::headers::strip_hop_by_hop;
use super::proxy::hide_secrets;
use super::refusal::{Guards, Refusal, Refused, Rule};
use super::routes::LiveRoute;
use super::ticket::Ticket;

/// Largest body that is kept to be sent a second time with a fresh token, bytes.
const REPLAY: usize = 1 << 20;

/// Most that is read of a body that is refused, bytes.
const DRAIN: usize = 4 << 20;

/// Counts of one request, shared by its two bodies and its audit line.
#[derive(Debug)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
    touched: Mutex<Instant>,
    upload_refusal: OnceLock<Refusal>,
    findings: Mutex<Vec<String>>,
    closed: AtomicBool,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            touched: Mutex::new(Instant::now()),
            upload_refusal: OnceLock::new(),
            findings: Mutex::default(),
            closed: AtomicBool::new(false),
        }
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

    /// Counts bytes from the guest.
    pub fn add_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Counts bytes to the guest.
    pub fn add_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When the request's head or a part of either body last came.
    pub fn touched(&self) -> Instant {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the guest's body broke off, if it did.
    pub fn upload_refusal(&self) -> Option<Refusal> {
        self.upload_refusal.get().cloned()
    }

    /// What the scanner found, for the audit line.
    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what was found in `part`.
    ///
    /// # Errors
    /// The refusal, when a find blocks.
    pub fn note(&self, part: &str, found: &[Finding], guards: &Guards) -> Result<(), Refusal> {
        if found.is_empty() {
            return Ok(());
        }
        let mut noted = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_FINDINGS.saturating_sub(noted.len());
        noted.extend(found.iter().take(room).map(|f| describe(part, f)));
        drop(noted);
        let Some(blocking) = found.iter().find(|f| f.action == Action::Block) else {
            return Ok(());
        };
        let coding = blocking.rule.starts_with("coding");
        let rule = if coding { Rule::Coding } else { Rule::Secret };
        let blocked = guards.check(true, rule, || match (&blocking.secret, coding) {
            (Some(name), _) => format!(
                "the {part} holds the value of {name}, which never leaves through the bottle"
            ),
            (None, true) => format!(
                "the {part} is coded in a way that cannot be looked into ({})",
                blocking.rule
            ),
            (None, false) => format!(
                "the {part} holds what looks like a credential ({}, {})",
                blocking.rule, blocking.sample
            ),
        });
        let hint = || {
            format!(
                "if it is none, in bottle.toml, in the route: scan = {{ rules = {{ \"{}\" = \"warn\" }} }}",
                blocking.rule
            )
        };
        blocked.map_err(|r| if blocking.secret.is_some() { r } else { r.hint(hint()) })
    }

    /// The request has its closing line: nothing of it may go on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn refuse_upload(&self, refusal: Refusal) -> io::Error {
        let _ = self.upload_refusal.set(refusal.clone());
        io::Error::other(Refused(refusal))
    }
}

fn describe(part: &str, f: &Finding) -> String {
    let action = match f.action {
        Action::Off | Action::Warn => "warn",
        Action::Redact => "redact",
        Action::Block => "block",
    };
    let who = f.secret.as_ref().map_or_else(|| f.sample.clone(), |name| format!("value of {name}"));
    format!("{action} {} in {part} at {}: {who}", f.rule, f.offset)
}

/// Bytes on their way through the scanner.
struct Flow {
    scan: Option<Stream>,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Flow {
    fn new(scan: Option<Stream>) -> Self {
        Self { scan, ready: VecDeque::new(), ended: false }
    }

    fn take(&mut self, chunk: Bytes) -> Vec<Finding> {
        let mut found = Vec::new();
        match &mut self.scan {
            None => self.ready.push_back(chunk),
            Some(scan) => {
                let mut out = Vec::new();
                scan.push(chunk, &mut out, &mut found);
                self.ready.extend(out);
            }
        }
        found
    }

    fn end(&mut self) -> Vec<Finding> {
        let (mut out, mut found) = (Vec::new(), Vec::new());
        if let Some(scan) = self.scan.as_mut().filter(|_| !self.ended) {
            scan.finish(&mut out, &mut found);
            self.ready.extend(out);
        }
        self.ended = true;
        found
    }

    fn done(&self) -> bool {
        self.ended && self.ready.is_empty()
    }
}

/// A body that can be sent again, once all of it has passed.
#[derive(Debug, Default)]
pub enum Replay {
    /// So far.
    #[default]
    Nothing,
    /// Not all of it yet.
    Part(Vec<u8>),
    /// All of it.
    Whole(Bytes),
    /// Too much to keep.
    Lost,
}

/// The guest's body on its way up.
pub struct Upload {
    inner: Option<Incoming>,
    meter: Arc<Meter>,
    live: Arc<LiveRoute>,
    guards: Guards,
    flow: Flow,
    left: Option<u64>,
    size: u64,
    trailers: Option<HeaderMap>,
    replay: Option<Arc<Mutex<Replay>>>,
}

impl Upload {
    /// Counts `inner` in `meter` and against the limits of `live`. `scan` is for its content; with
    /// `replay` a copy is kept.
    pub fn new(
        inner: Incoming,
        meter: Arc<Meter>,
        live: Arc<LiveRoute>,
        guards: Guards,
        scan: Option<Stream>,
        replay: Option<Arc<Mutex<Replay>>>,
    ) -> Self {
        let (left, ended) = (inner.size_hint().exact(), inner.is_end_stream());
        let mut flow = Flow::new(scan);
        flow.ended = ended;
        if let Some(replay) = replay.as_ref().filter(|_| ended) {
            *replay.lock().unwrap_or_else(PoisonError::into_inner) = Replay::Whole(Bytes::new());
        }
        Self {
            inner: Some(inner),
            meter,
            live,
            guards,
            flow,
            left,
            size: 0,
            trailers: None,
            replay,
        }
    }

    /// The same body a second time; it was counted and searched when it first went.
    pub fn again(body: Bytes, meter: Arc<Meter>, live: Arc<LiveRoute>, guards: Guards) -> Self {
        let left = Some(body.len() as u64);
        let mut flow = Flow::new(None);
        if !body.is_empty() {
            flow.ready.push_back(body);
        }
        flow.ended = true;
        Self { inner: None, meter, live, guards, flow, left, size: 0, trailers: None, replay: None }
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        let len = chunk.len();
        self.meter.add_up(len);
        self.size += len as u64;
        check_size(&self.live, self.size, &self.guards)?;
        self.live.spend.up(len as u64, &self.live.route.budget, &self.guards)?;
        let found = self.flow.take(chunk);
        self.meter.note("body", &found, &self.guards)
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let found = self.flow.end();
        self.meter.note("body", &found, &self.guards)
    }

    fn take_trailers(&mut self, mut trailers: HeaderMap) -> Result<(), Refusal> {
        strip_hop_by_hop(&mut trailers);
        for name in [AUTHORIZATION, COOKIE, HOST, CONTENT_LENGTH] {
            trailers.remove(name);
        }
        if let Some(credential) = &self.live.credential {
            credential.now().1.clear(&mut trailers, &mut None);
        }
        for (name, value) in &trailers {
            self.live.spend.up(
                (name.as_str().len() + value.len()) as u64,
                &self.live.route.budget,
                &self.guards,
            )?;
            for text in [name.as_str().as_bytes(), value.as_bytes()] {
                self.meter.note(
                    "trailers",
                    &self.live.profile.text(Direction::Request, text),
                    &self.guards,
                )?;
            }
        }
        self.trailers = Some(trailers);
        Ok(())
    }

    fn discard(&mut self) {
        if let Some(inner) = self.inner.take() {
            drain(inner);
        }
    }

    /// Keeps a copy of what goes.
    fn keep(&self, chunk: &Bytes) {
        let Some(replay) = &self.replay else { return };
        let mut replay = replay.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = match std::mem::replace(&mut *replay, Replay::Lost) {
            Replay::Nothing => Vec::new(),
            Replay::Part(kept) => kept,
            Replay::Whole(_) | Replay::Lost => return,
        };
        if kept.len() + chunk.len() <= REPLAY {
            kept.extend_from_slice(chunk);
            *replay = if self.flow.done() && self.trailers.is_none() {
                Replay::Whole(kept.into())
            } else {
                Replay::Part(kept)
            };
        }
    }

    fn kept_all(&self) {
        let Some(replay) = &self.replay else { return };
        let mut replay = replay.lock().unwrap_or_else(PoisonError::into_inner);
        *replay = match std::mem::replace(&mut *replay, Replay::Lost) {
            Replay::Nothing => Replay::Whole(Bytes::new()),
            Replay::Part(kept) => Replay::Whole(kept.into()),
            other => other,
        };
    }
}

/// Reads on for a while and throws away: a client that is refused in the middle of its body reads
/// the answer only when it has sent all of it.
pub fn drain(mut body: Incoming) {
    tokio::spawn(async move {
        let mut left = DRAIN;
        let _ = timeout(Duration::from_secs(5), async {
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

/// The first thing that a route's `max_body` is compared with is the length that the guest
/// announces.
///
/// # Errors
/// [`Rule::MaxBody`].
pub fn check_size(live: &LiveRoute, size: u64, guards: &Guards) -> Result<(), Refusal> {
    let Some(most) = live.route.max_body else { return Ok(()) };
    guards.check(size > most, Rule::MaxBody, || {
        format!("the body is larger than the {most} bytes that route {} allows", live.route.name)
    })
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
            if let Some(chunk) = me.flow.ready.pop_front() {
                if chunk.is_empty() {
                    continue;
                }
                me.left = me.left.map(|left| left.saturating_sub(chunk.len() as u64));
                me.keep(&chunk);
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if let Some(trailers) = me.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if me.meter.closed.load(Ordering::Relaxed) && !me.flow.ended {
                let over = Refusal::new(
                    Rule::Aborted,
                    "the request's body goes on after the end of its response",
                );
                me.discard();
                return Poll::Ready(Some(Err(me.meter.refuse_upload(over))));
            }
            let Some(inner) = me.inner.as_mut().filter(|_| !me.flow.ended) else {
                me.kept_all();
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
                me.flow.ready.clear();
                me.discard();
                return Poll::Ready(Some(Err(me.meter.refuse_upload(refusal))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.flow.done() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Why the guest's body ended before its end.
fn broken(e: &hyper::Error) -> Refusal {
    let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<io::Error>());
    match source.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidData) => {
            Refusal::new(Rule::Chunk, "the chunks of the body are not in order")
        }
        _ => Refusal::new(
            Rule::Aborted,
            "the bottle closed the connection inside the request's body",
        ),
    }
}

/// The upstream's body on its way down. Its end, whichever it is, writes the audit line.
pub struct Download {
    inner: Incoming,
    ticket: Ticket,
    live: Arc<LiveRoute>,
    profile: Profile,
    guards: Guards,
    flow: Flow,
    trailers: Option<HeaderMap>,
    idle: Duration,
    end: Instant,
    quiet: Pin<Box<Sleep>>,
}

impl Download {
    /// Counts `inner` for `ticket` and gives up after `idle` without a byte, or at `end`.
    pub fn new(
        inner: Incoming,
        ticket: Ticket,
        (live, profile): (Arc<LiveRoute>, Profile),
        guards: Guards,
        scan: Option<Stream>,
        (idle, end): (Duration, Instant),
    ) -> Self {
        Self {
            inner,
            ticket,
            live,
            profile,
            guards,
            flow: Flow::new(scan),
            trailers: None,
            idle,
            end,
            quiet: Box::pin(sleep(idle)),
        }
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        let len = chunk.len();
        self.ticket.meter().add_down(len);
        self.live.spend.down(len as u64, &self.live.route.budget, &self.guards)?;
        let found = self.flow.take(chunk);
        self.ticket.meter().note("response", &found, &self.guards)
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let found = self.flow.end();
        self.ticket.meter().note("response", &found, &self.guards)
    }

    fn fail(&mut self, refusal: &Refusal) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.flow.ready.clear();
        self.ticket.fail(refusal);
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(chunk) = self.flow.ready.pop_front() {
                if self.flow.done() && self.trailers.is_none() {
                    self.ticket.finish(); // hyper does not poll a body of known length past its end
                }
                if chunk.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if let Some(trailers) = self.trailers.take() {
                self.ticket.finish();
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if self.flow.ended {
                self.ticket.finish();
                return Poll::Ready(None);
            }
            // A request whose body was cut off gets no more of its response.
            if let Some(refusal) = self.ticket.meter().upload_refusal() {
                return self.fail(&refusal);
            }
            let step = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.quiet.as_mut().reset((Instant::now() + self.idle).min(self.end));
                    match frame.into_data() {
                        Ok(chunk) => {
                            let last = self.inner.is_end_stream();
                            self.take(chunk).and_then(|()| if last { self.end() } else { Ok(()) })
                        }
                        Err(other) => {
                            self.trailers = other.into_trailers().ok().map(|mut t| {
                                strip_hop_by_hop(&mut t);
                                if self.flow.scan.is_some() {
                                    hide_secrets(&mut t, &self.profile, &self.ticket);
                                }
                                t
                            });
                            self.end()
                        }
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    let cut = self.ticket.meter().upload_refusal();
                    Err(cut.unwrap_or_else(|| {
                        Refusal::new(Rule::Upstream, "the upstream broke off inside its response")
                    }))
                }
                Poll::Ready(None) => self.end(),
                Poll::Pending => {
                    ready!(self.quiet.as_mut().poll(cx));
                    let why = if Instant::now() >= self.end {
                        "the request took too long"
                    } else {
                        "the upstream fell silent inside its response"
                    };
                    Err(Refusal::new(Rule::UpstreamTimeout, why))
                }
            };
            if let Err(refusal) = step {
                return self.fail(&refusal);
            }
        }
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

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            Self::Stream(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Stream(download) => download.flow.done() && download.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            // The scanner overwrites, it never adds or takes away; what it holds belongs to what is
            // left.
            Self::Stream(download) => {
                let held = download.flow.ready.iter().map(|c| c.len() as u64).sum::<u64>();
                download
                    .inner
                    .size_hint()
                    .exact()
                    .filter(|_| download.flow.scan.is_none() || download.ticket.meter().down() == 0)
                    .map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + held))
            }
        }
    }
}
