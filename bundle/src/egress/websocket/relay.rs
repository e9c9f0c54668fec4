//! Carries the frames of a WebSocket both ways, searched.

use std::sync::Arc;
use std::time::Duration;

use bottle_scan::Direction;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::frames::Frames;
use super::handshake::AgreedWebSocket;
use crate::egress::audit::RequestAudit;
use crate::egress::body::reply::Reply;
use crate::egress::http1::strict_reader::{Peer, StrictReader};
use crate::egress::meter::Meter;
use crate::egress::refusal::{Refusal, Rule};
use crate::egress::request::headers::{hide_secrets, strip_hop_by_hop};
use crate::egress::route::rules::RouteRules;
use crate::egress::shared::Shared;
use crate::egress::tunnel::guest_stream::Prefixed;

/// Time for a last frame to a guest that may not read any more.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Space for one read, bytes.
const READ_BYTES: usize = 16 * 1024;

/// Longest reason in a Close frame, bytes: a control frame has 125, two of them the code.
const MAX_CLOSE_REASON: usize = 123;

/// Answers the guest, then carries frames both ways in a task of its own. The end writes the closing
/// audit line.
pub fn start(
    shared: Arc<Shared>,
    agreed: AgreedWebSocket,
    mut audit: RequestAudit,
) -> Response<Reply> {
    let mut response = Response::new(Reply::Text(Full::<Bytes>::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let AgreedWebSocket { guest, upstream, mut headers, live } = agreed;
    strip_hop_by_hop(&mut headers);
    hide_secrets(&mut headers, &shared.profile(&live.rules), &audit);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    *response.headers_mut() = headers;
    audit.set_status(StatusCode::SWITCHING_PROTOCOLS.as_u16());
    shared.tasks.clone().spawn(async move {
        let (Ok(guest), Ok(upstream)) = (guest.await, upstream.await) else {
            return audit.fail(&Refusal::new(
                Rule::Aborted,
                "the bottle closed the connection before the WebSocket began",
            ));
        };
        let outcome = match guest_parts(guest) {
            Some((io, first)) => carry(&shared, io, first, upstream, &live.rules, &audit).await,
            None => Err(Refusal::new(Rule::Upgrade, "this connection cannot become a WebSocket")),
        };
        match outcome {
            Ok(()) => audit.finish(),
            Err(refusal) => audit.fail(&refusal),
        }
    });
    response
}

/// The guest's connection, whichever way it came in, and what it sent after its handshake.
fn guest_parts(guest: Upgraded) -> Option<(Box<dyn GuestIo>, BytesMut)> {
    fn parts<S: GuestIo + 'static>(
        guest: Upgraded,
    ) -> Result<(Box<dyn GuestIo>, BytesMut), Upgraded> {
        let (io, first) =
            guest.downcast::<TokioIo<StrictReader<S>>>()?.io.into_inner().into_parts();
        Ok((Box::new(io), first))
    }
    parts::<TlsStream<Prefixed>>(guest).or_else(parts::<UnixStream>).or_else(parts::<Prefixed>).ok()
}

/// A connection to the guest.
trait GuestIo: AsyncRead + AsyncWrite + Peer + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Peer + Send + Unpin> GuestIo for S {}

/// Carries both directions to their end. `first` is what the guest sent after its handshake.
async fn carry<S>(
    shared: &Shared,
    guest: S,
    first: BytesMut,
    upstream: Upgraded,
    rules: &RouteRules,
    audit: &RequestAudit,
) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite,
{
    let meter = audit.meter();
    let (mut guest_read, mut guest_write) = tokio::io::split(guest);
    let (mut up_read, mut up_write) = tokio::io::split(TokioIo::new(upstream));
    let profile = &shared.profile(rules);
    let scan = |direction| {
        profile.stream(direction, "").ok().filter(|_| shared.checks().enabled(Rule::Secret))
    };
    let down_scan = if rules.credential.is_some() || rules.route.scan.responses {
        scan(Direction::Response)
    } else {
        None
    };
    let one_way = |direction, scan| FrameRelay {
        shared,
        rules,
        meter,
        frames: Frames::new(direction, profile.clone(), scan),
        direction,
    };
    let mut up = one_way(Direction::Request, scan(Direction::Request));
    let mut down = one_way(Direction::Response, down_scan);
    let outcome = {
        let both = async {
            tokio::try_join!(
                up.pump(&mut guest_read, first, &mut up_write),
                down.pump(&mut up_read, BytesMut::new(), &mut guest_write)
            )
        };
        tokio::select! {
            both = both => both.map(|_| ()),
            refusal = shared.timed_out(meter, rules) => Err(refusal),
            refusal = shared.cut_off() => Err(refusal),
        }
    };
    if let Err(refusal) = &outcome {
        // Close with code 1008, policy violation. Inside another frame it would be misread; then the
        // guest only sees the end of the connection.
        if down.frames.at_boundary() {
            let reason: String = format!("bot-bottle egress: {}", refusal.rule.code())
                .chars()
                .take(MAX_CLOSE_REASON)
                .collect();
            let length = u8::try_from(reason.len() + 2).unwrap_or(2);
            let last = [&[0x88, length, 0x03, 0xf0], reason.as_bytes()].concat();
            let _ = timeout(CLOSE_TIME, guest_write.write_all(&last)).await;
        }
        let _ = timeout(CLOSE_TIME, guest_write.shutdown()).await;
    }
    outcome
}

/// One direction of a WebSocket.
struct FrameRelay<'a> {
    shared: &'a Shared,
    rules: &'a RouteRules,
    meter: &'a Meter,
    frames: Frames,
    direction: Direction,
}

impl FrameRelay<'_> {
    /// Carries frames until the sender ends.
    async fn pump<R, W>(&mut self, from: &mut R, first: BytesMut, to: &mut W) -> Result<(), Refusal>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut input = first;
        let mut out = BytesMut::new();
        loop {
            if !input.is_empty() {
                let checked = self.check(&input, &mut out);
                if !out.is_empty() && checked.is_ok() {
                    let gone = |_| Refusal::new(Rule::Aborted, "the other side went away");
                    to.write_all(&out).await.map_err(gone)?;
                    to.flush().await.map_err(gone)?;
                    out.clear();
                }
                checked?;
            }
            input.clear();
            input.reserve(READ_BYTES);
            if from.read_buf(&mut input).await.unwrap_or(0) == 0 {
                let checked = self.end(&mut out);
                if checked.is_ok() && !out.is_empty() {
                    let _ = to.write_all(&out).await;
                }
                checked?;
                let _ = to.shutdown().await;
                return Ok(());
            }
        }
    }

    /// Searches what was held back of an unfinished message.
    fn end(&mut self, out: &mut BytesMut) -> Result<(), Refusal> {
        let mut found = Vec::new();
        self.frames.finish(out, &mut found);
        self.meter.note(self.part(), &found, self.shared.checks())
    }

    /// The name of this direction in findings.
    fn part(&self) -> &'static str {
        match self.direction {
            Direction::Request => "WebSocket message",
            Direction::Response => "WebSocket answer",
        }
    }

    /// Counts and searches `input`; appends to `out` what may go on.
    fn check(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), Refusal> {
        let (checks, quota) = (self.shared.checks(), &self.rules.quota);
        let (n, budget) = (input.len(), &self.rules.route.budget);
        if self.direction == Direction::Request {
            self.meter.add_up(n);
            quota.up(n as u64, budget, checks)?;
        } else {
            self.meter.add_down(n);
            quota.down(n as u64, budget, checks)?;
        }
        let mut found = Vec::new();
        self.frames.feed(input, out, &mut found)?;
        self.meter.note(self.part(), &found, checks)
    }
}
