//! A request as the upstream gets it.

use std::sync::{Arc, Mutex};

use bottle_scan::{Direction, Profile, Stream};
use http::header::{CONTENT_ENCODING, HOST, HeaderMap, HeaderValue, TE};
use http::{Request, Uri, Version, request};
use hyper::body::{Body as _, Incoming};

use super::audit::RequestAudit;
use super::body::upload::{Replay, Upload, check_size};
use super::meter::Meter;
use super::policy::routes::LiveRoute;
use super::refusal::{Checks, Refusal, Rule};
use super::request::authority::Authority;
use super::request::headers::{accepts_trailers, join_cookies, strip_hop_by_hop};
use super::request::target::Target;
use super::route::rules::LiveCredential;
use super::upstream::connector::Protocol;

/// A request that was scanned and may be sent, without its credential.
pub struct Outgoing {
    /// Method and headers, without the credential.
    head: request::Parts,
    /// `None` after it was sent.
    body: Option<Upload>,
    to: Authority,
    target: Target,
    /// The request's route.
    pub live: Arc<LiveRoute>,
    /// The version of HTTP in which the request arrived.
    pub protocol: Protocol,
}

impl Outgoing {
    /// Searches the target and the headers, and prepares the search of the body, which is done as
    /// it streams. `body` is taken only after every check that does not need it has passed, so that
    /// the caller can still drain it on a refusal.
    ///
    /// # Errors
    /// [`Rule::Secret`], [`Rule::Coding`], [`Rule::MaxBody`] or [`Rule::Budget`].
    pub fn scan(
        (mut head, body): (request::Parts, &mut Option<Incoming>),
        live: Arc<LiveRoute>,
        to: &Authority,
        mut target: Target,
        audit: &RequestAudit,
        checks: &Checks,
        replay: &Arc<Mutex<Replay>>,
    ) -> Result<Self, Refusal> {
        let protocol =
            if head.version == Version::HTTP_2 { Protocol::Http2 } else { Protocol::Http1 };
        let rules = &live.rules;
        clean_headers(&mut head, protocol);
        if let Some(credential) = rules.credential.as_ref().map(|c| c.now().1) {
            // A placeholder in the credential's place is not a leak.
            credential.clear(&mut head.headers, &mut target.query);
        }
        let size = scan_head(&head, &target, &rules.profile, audit.meter(), checks)?;
        if let Some(length) = body.as_ref().and_then(|b| b.size_hint().exact()) {
            check_size(rules, length, checks)?;
        }
        rules.quota.up(size, &rules.route.budget, checks)?;
        let empty = body.as_ref().is_none_or(|b| b.is_end_stream());
        let scan = if empty || !checks.enabled(Rule::Secret) {
            None
        } else {
            body_scanner(&rules.profile, Direction::Request, &head.headers, checks)?
        };
        let refreshable = rules.credential.as_ref().is_some_and(|c| c.token.is_refreshable());
        let replay = refreshable.then(|| replay.clone());
        let body = body.take().ok_or_else(already_sent)?;
        let meter = audit.meter().clone();
        let body = Upload::new(body, meter, rules.clone(), checks.clone(), scan, replay);
        Ok(Self { head, body: Some(body), to: to.clone(), target, live, protocol })
    }

    /// The headers.
    pub fn headers(&mut self) -> &mut HeaderMap {
        &mut self.head.headers
    }

    /// The request with its current credential, and the version of the credential's token. The body
    /// is `body`, or on the first call the guest's.
    ///
    /// # Errors
    /// [`Rule::Path`].
    pub fn request(&mut self, body: Option<Upload>) -> Result<(u64, Request<Upload>), Refusal> {
        let body = body.or_else(|| self.body.take()).ok_or_else(already_sent)?;
        let rules = &self.live.rules;
        let keep = rules.credential.as_ref().is_some_and(|c| c.token.is_refreshable());
        let mut headers =
            if keep { self.head.headers.clone() } else { std::mem::take(&mut self.head.headers) };
        let mut target = if keep { self.target.clone() } else { std::mem::take(&mut self.target) };
        let (version, credential) = rules.credential.as_ref().map(LiveCredential::now).unzip();
        if let Some(credential) = credential {
            credential.inject(&mut headers, &mut target.query);
        }
        let (scheme, port) = if rules.route.tls { ("https", 443) } else { ("http", 80) };
        let uri = format!("{scheme}://{}{}", self.to.host_header(port), target.path_and_query());
        let uri: Uri =
            uri.parse().map_err(|_| Refusal::new(Rule::Path, "the path cannot be sent on"))?;
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok((version.unwrap_or(0), request))
    }
}

fn already_sent() -> Refusal {
    Refusal::new(Rule::Aborted, "the request's body has been sent already")
}

/// Removes what belongs to the guest's connection.
fn clean_headers(head: &mut request::Parts, protocol: Protocol) {
    let trailers = protocol == Protocol::Http2 && accepts_trailers(&head.headers);
    strip_hop_by_hop(&mut head.headers);
    if trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(&mut head.headers);
    head.headers.remove(HOST); // the connection to the upstream adds it for HTTP/1.1
    head.version = Version::HTTP_11;
    head.extensions.clear();
}

/// Searches the target and the headers. Returns their size in bytes.
fn scan_head(
    head: &request::Parts,
    target: &Target,
    profile: &Profile,
    meter: &Meter,
    checks: &Checks,
) -> Result<u64, Refusal> {
    let direction = Direction::Request;
    let text = target.path_and_query();
    meter.note("request target", &profile.target(direction, text.as_bytes()), checks)?;
    let mut size = text.len();
    for (name, value) in &head.headers {
        size += name.as_str().len() + value.len() + 4;
        let found = profile.text_any_case(direction, name.as_str().as_bytes());
        meter.note("name of a header", &found, checks)?;
        let found = profile.header(direction, name.as_str(), value.as_bytes());
        meter.note(&format!("header {name}"), &found, checks)?;
    }
    let values: Vec<&[u8]> = head.headers.values().map(HeaderValue::as_bytes).collect();
    meter.note("headers together", &profile.joined(direction, &values), checks)?;
    Ok(size as u64)
}

/// Whether a body with these headers has to be decoded before it is searched.
pub fn is_coded(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The scanner for a body with these headers.
///
/// # Errors
/// [`Rule::Coding`] for a coding that cannot be decoded.
pub fn body_scanner(
    profile: &Profile,
    direction: Direction,
    headers: &HeaderMap,
    checks: &Checks,
) -> Result<Option<Stream>, Refusal> {
    let codings: Vec<&str> =
        headers.get_all(CONTENT_ENCODING).iter().map(|v| v.to_str().unwrap_or("?")).collect();
    match profile.stream(direction, &codings.join(", ")) {
        Ok(scan) => Ok(Some(scan)),
        Err(e) => checks.refuse_if(true, Rule::Coding, || e.to_string()).map(|()| None),
    }
}
