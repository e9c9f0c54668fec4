//! The handshake of a WebSocket (RFC 6455 section 4), checked on both sides.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode, Version, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use sha1::{Digest, Sha1};

use crate::egress::audit::RequestAudit;
use crate::egress::http1::request_head::names_websocket;
use crate::egress::outgoing::Outgoing;
use crate::egress::policy::routes::LiveRoute;
use crate::egress::refusal::{Refusal, Rule};
use crate::egress::upstream::connector::Protocol;

/// Appended to the key before it is hashed, RFC 6455 section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request asks for a WebSocket, well-formed or not.
#[must_use]
pub fn is_websocket_request(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|v| names_websocket(v.as_bytes()))
}

/// The value of Sec-WebSocket-Accept for `key`.
#[must_use]
pub fn accept_value(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize())
}

/// The guest's side of a handshake.
pub struct GuestHandshake {
    guest: OnUpgrade,
    key: HeaderValue,
}

impl GuestHandshake {
    /// Checks the guest's request. `empty` says that it has no body.
    ///
    /// # Errors
    /// [`Rule::Upgrade`].
    pub fn parse(head: &mut request::Parts, empty: bool) -> Result<Self, Refusal> {
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
                None => {
                    Err(Refusal::new(Rule::Upgrade, "this connection cannot become a WebSocket"))
                }
            },
            None => Err(Refusal::new(
                Rule::Upgrade,
                "not the handshake of a WebSocket (RFC 6455, version 13, over HTTP/1.1)",
            )),
        }
    }
}

/// A WebSocket that both sides have agreed on.
pub struct AgreedWebSocket {
    /// The guest's connection.
    pub guest: OnUpgrade,
    /// The upstream's connection.
    pub upstream: OnUpgrade,
    /// Headers of the upstream's response.
    pub headers: HeaderMap,
    /// The route.
    pub live: Arc<LiveRoute>,
}

impl AgreedWebSocket {
    /// Asks the upstream, without extensions, because a compressed frame could not be searched.
    /// Returns `Ok(Err(response))` if the upstream declines.
    ///
    /// # Errors
    /// Why there is no response, or that the response is no valid handshake.
    pub async fn ask(
        handshake: GuestHandshake,
        mut outgoing: Outgoing,
        audit: &RequestAudit,
    ) -> Result<Result<Self, Response<Incoming>>, Refusal> {
        let headers = outgoing.headers();
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let (_, request) = outgoing.request(None)?;
        let live = outgoing.live.clone();
        let mut response =
            live.upstream.send(request, Protocol::Http1, audit.meter(), &live.rules).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Err(response));
        }
        let accept = accept_value(handshake.key.as_bytes());
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
                "the upstream's answer is not a valid WebSocket handshake",
            ));
        }
        let upstream = hyper::upgrade::on(&mut response);
        let headers = std::mem::take(response.headers_mut());
        Ok(Ok(Self { guest: handshake.guest, upstream, headers, live }))
    }
}
