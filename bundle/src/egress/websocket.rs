//! WebSocket (RFC 6455): a handshake that is one on both sides, then frames that are searched like
//! bodies.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bottle_scan::Direction;
use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY,
};
use http::header::{SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{Method, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::audit::RequestAudit;
use super::body::{Meter, Reply};
use super::connect::Prefixed;
use super::frames::Frames;
use super::headers::strip_hop_by_hop;
use super::passthrough::silence;
use super::proxy::{Outgoing, Proxy};
use super::refusal::{Refusal, Rule};
use super::routes::LiveRoute;
use super::upstream::Protocol;
use super::wire::Wire;

/// RFC 6455 section 1.3.
const ACCEPT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// For a last frame to a guest that may not read any more.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Whether the value of an Upgrade header asks for a WebSocket. The reader of the connection and
/// the handler of the request both go by this.
#[must_use]
pub fn names_websocket(value: &[u8]) -> bool {
    value.to_ascii_lowercase().windows(9).any(|w| w == b"websocket")
}

/// Whether a request asks for a WebSocket, well or badly.
#[must_use]
pub fn asked(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|v| names_websocket(v.as_bytes()))
}

/// The answer to a key.
#[must_use]
pub fn accept(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT).finalize())
}

/// The guest's side of a handshake.
pub struct Handshake {
    guest: OnUpgrade,
    key: HeaderValue,
}

impl Handshake {
    /// Checks the guest's wish.
    ///
    /// # Errors
    /// [`Rule::Upgrade`].
    pub fn of(head: &mut http::request::Parts, empty: bool) -> Result<Self, Refusal> {
        let one = |name: &HeaderName| {
            let mut all = head.headers.get_all(name).iter();
            all.next().filter(|_| all.next().is_none())
        };
        let is = |name: &HeaderName, text: &str| {
            one(name).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(text.as_bytes()))
        };
        let connection = head.headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
        let key = one(&SEC_WEBSOCKET_KEY)
            .filter(|k| STANDARD.decode(k.as_bytes()).is_ok_and(|k| k.len() == 16))
            .cloned();
        let fits = head.version == Version::HTTP_11
            && head.method == Method::GET
            && empty
            && is(&UPGRADE, "websocket")
            && is(&SEC_WEBSOCKET_VERSION, "13")
            && connection
                .flat_map(|v| v.split(','))
                .any(|v| v.trim().eq_ignore_ascii_case("upgrade"));
        match key.filter(|_| fits) {
            Some(key) => match head.extensions.remove::<OnUpgrade>() {
                Some(guest) => Ok(Self { guest, key }),
                None => Err(Refusal::new(Rule::Upgrade, "a WebSocket where there can be none")),
            },
            None => Err(Refusal::new(
                Rule::Upgrade,
                "not the handshake of a WebSocket (RFC 6455, version 13, over HTTP/1.1)",
            )),
        }
    }
}

/// A WebSocket that both sides have agreed on.
pub struct Opened {
    guest: OnUpgrade,
    upstream: OnUpgrade,
    headers: HeaderMap,
    live: Arc<LiveRoute>,
}

impl Opened {
    /// Asks the upstream. Without extensions: a compressed frame could not be looked into.
    ///
    /// # Errors
    /// Whatever kept the answer from coming, or an answer that is not one. `Ok(Err(response))`: the
    /// upstream does not want to.
    pub async fn ask(
        handshake: Handshake,
        mut outgoing: Outgoing,
        audit: &RequestAudit,
    ) -> Result<Result<Self, Response<Incoming>>, Refusal> {
        let headers = outgoing.headers();
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let (_, request) = outgoing.request(None)?;
        let live = outgoing.live.clone();
        let mut response = live.upstream.send(request, Protocol::Http1, audit.meter()).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Err(response));
        }
        let accept = accept(handshake.key.as_bytes());
        let headers = response.headers();
        let agreed =
            headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|v| v.as_bytes() == accept.as_bytes())
                && headers
                    .get(UPGRADE)
                    .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
                && !headers.contains_key(SEC_WEBSOCKET_EXTENSIONS);
        if !agreed {
            return Err(Refusal::new(
                Rule::Upstream,
                "the upstream's answer to the WebSocket handshake is not one",
            ));
        }
        let upstream = hyper::upgrade::on(&mut response);
        let headers = std::mem::take(response.headers_mut());
        Ok(Ok(Self { guest: handshake.guest, upstream, headers, live }))
    }
}

/// Answers the guest; then frames go both ways until the end, which writes the audit line.
pub fn run(proxy: Arc<Proxy>, opened: Opened, mut audit: RequestAudit) -> Response<Reply> {
    let mut response = Response::new(Reply::Text(Full::<Bytes>::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let mut headers = opened.headers;
    strip_hop_by_hop(&mut headers);
    super::proxy::hide_secrets(&mut headers, &proxy.profile(&opened.live), &audit);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    *response.headers_mut() = headers;
    audit.set_status(StatusCode::SWITCHING_PROTOCOLS.as_u16());
    let (guest, upstream, live) = (opened.guest, opened.upstream, opened.live);
    proxy.tasks.clone().spawn(async move {
        let (Ok(guest), Ok(upstream)) = (guest.await, upstream.await) else {
            return audit.fail(&Refusal::new(
                Rule::Aborted,
                "the bottle closed the connection before the WebSocket began",
            ));
        };
        let outcome = match guest.downcast::<TokioIo<Wire<TlsStream<Prefixed>>>>() {
            Ok(parts) => {
                let (io, first) = parts.io.into_inner().into_parts();
                carry(&proxy, io, first, upstream, &live, &audit).await
            }
            Err(guest) => match guest.downcast::<TokioIo<Wire<UnixStream>>>() {
                Ok(parts) => {
                    let (io, first) = parts.io.into_inner().into_parts();
                    carry(&proxy, io, first, upstream, &live, &audit).await
                }
                Err(_) => Err(Refusal::new(Rule::Upgrade, "a WebSocket where there can be none")),
            },
        };
        match outcome {
            Ok(()) => audit.finish(),
            Err(refusal) => audit.fail(&refusal),
        }
    });
    response
}

async fn carry<S>(
    proxy: &Proxy,
    guest: S,
    first: BytesMut,
    upstream: Upgraded,
    live: &LiveRoute,
    audit: &RequestAudit,
) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite,
{
    let meter = audit.meter();
    let (mut guest_read, mut guest_write) = tokio::io::split(guest);
    let (mut up_read, mut up_write) = tokio::io::split(TokioIo::new(upstream));
    let profile = &proxy.profile(live);
    let scan = |direction| {
        profile.stream(direction, "").ok().filter(|_| proxy.checks().enabled(Rule::Secret))
    };
    let hidden = if live.credential.is_some() || live.route.scan.responses {
        scan(Direction::Response)
    } else {
        None
    };
    let mut up = Way {
        proxy,
        live,
        meter,
        frames: Frames::new(Direction::Request, profile.clone(), scan(Direction::Request)),
        direction: Direction::Request,
    };
    let mut down = Way {
        proxy,
        live,
        meter,
        frames: Frames::new(Direction::Response, profile.clone(), hidden),
        direction: Direction::Response,
    };
    let mut cut = proxy.cut.subscribe();
    let outcome = {
        let both = async {
            tokio::try_join!(
                up.pump(&mut guest_read, first, &mut up_write),
                down.pump(&mut up_read, BytesMut::new(), &mut guest_write)
            )
        };
        tokio::select! {
            both = both => both.map(|_| ()),
            refusal = silence(proxy, meter) => Err(refusal),
            _ = cut.wait_for(|cut| *cut) => Err(Refusal::new(Rule::Aborted, "cut off at teardown")),
        }
    };
    if let Err(refusal) = &outcome {
        // Close, 1008: policy violation. Inside another frame it would be misread, and then the
        // guest just sees the end.
        if down.frames.at_boundary() {
            let reason: String =
                format!("bot-bottle egress: {}", refusal.rule.code()).chars().take(123).collect();
            let length = u8::try_from(reason.len() + 2).unwrap_or(2);
            let last = [&[0x88, length, 0x03, 0xf0], reason.as_bytes()].concat();
            let _ = timeout(LAST_WORD, guest_write.write_all(&last)).await;
        }
        let _ = timeout(LAST_WORD, guest_write.shutdown()).await;
    }
    outcome
}

/// One direction.
struct Way<'a> {
    proxy: &'a Proxy,
    live: &'a LiveRoute,
    meter: &'a Meter,
    frames: Frames,
    direction: Direction,
}

impl Way<'_> {
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
                    to.write_all(&out)
                        .await
                        .map_err(|_| Refusal::new(Rule::Aborted, "the other side went away"))?;
                    to.flush()
                        .await
                        .map_err(|_| Refusal::new(Rule::Aborted, "the other side went away"))?;
                    out.clear();
                }
                checked?;
            }
            input.clear();
            input.reserve(16 * 1024);
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

    /// What was held of a message that did not go on.
    fn end(&mut self, out: &mut BytesMut) -> Result<(), Refusal> {
        let mut found = Vec::new();
        self.frames.finish(out, &mut found);
        let part = if self.direction == Direction::Request {
            "WebSocket message"
        } else {
            "WebSocket answer"
        };
        self.meter.note(part, &found, self.proxy.checks())
    }

    fn check(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), Refusal> {
        let (checks, budget) = (self.proxy.checks(), &self.live.route.budget);
        let (n, up) = (input.len(), self.direction == Direction::Request);
        if up {
            self.meter.add_up(n);
            self.live.spend.up(n as u64, budget, checks)?;
        } else {
            self.meter.add_down(n);
            self.live.spend.down(n as u64, budget, checks)?;
        }
        let mut found = Vec::new();
        self.frames.feed(input, out, &mut found)?;
        self.meter.note(if up { "WebSocket message" } else { "WebSocket answer" }, &found, checks)
    }
}
