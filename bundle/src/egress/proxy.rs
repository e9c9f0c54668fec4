//! One request: checks in order, then on to its route.

use std::sync::{Arc, Mutex, PoisonError};

use bottle_policy::audit::AuditWriter;
use bottle_scan::{Direction, Profile, Stream as Scan};
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, TE,
};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::authority::Authority;
use super::body::{Download, Replay, Reply, Upload, check_size, drain};
use super::connect;
use super::head::is_method;
use super::headers::{join_cookies, strip_hop_by_hop, takes_trailers};
use super::passthrough;
use super::path::{Target, normalise};
use super::refusal::{Guards, Refusal, Rule};
use super::routes::{Live, LiveRoute};
use super::ticket::Ticket;
use super::tls::Leaves;
use super::upstream::{Network, Protocol};
use super::websocket;
use super::wire::SENTINEL;

/// Everything that connections share.
pub struct Proxy {
    /// The policy.
    pub routes: Arc<Live>,
    /// Certificates.
    pub leaves: Leaves,
    /// The log.
    pub log: Arc<AuditWriter>,
    /// Lookup, limits, rules in force.
    pub network: Arc<Network>,
    /// Every connection and tunnel that is open.
    pub tasks: TaskTracker,
    /// [`super::Limits::requests`].
    pub requests: Arc<Semaphore>,
    /// True once the daemon is to end.
    pub ending: watch::Receiver<bool>,
    /// Made true when those that are still open then have had their time.
    pub cut: watch::Sender<bool>,
}

/// Where a request came in.
#[derive(Clone)]
pub enum Via {
    /// At the proxy's socket. The slot is one of [`super::Limits::connections`].
    Socket(Arc<OwnedSemaphorePermit>),
    /// In the tunnel to this host.
    Tunnel(Arc<Authority>),
}

/// Where a request wants to go.
struct Destination {
    to: Authority,
    tls: bool,
    target: Target,
}

impl Proxy {
    /// The rules in force.
    pub fn guards(&self) -> &Guards {
        &self.network.guards
    }

    /// Answers one request; never fails, because a refusal is an answer.
    pub async fn handle(self: Arc<Self>, via: Via, request: Request<Incoming>) -> Response<Reply> {
        let mut ticket =
            Ticket::new(self.log.clone(), self.routes.now().secrets(), self.cut.subscribe());
        if let Via::Tunnel(to) = &via {
            ticket.to(to);
        }
        if request.method() == Method::CONNECT {
            return self.connect(&via, request, ticket);
        }
        let asked = websocket::asked(request.headers());
        ticket.takes(self.requests.clone().acquire_owned().await.ok());
        let (head, body) = request.into_parts();
        let mut body = Some(body);
        let outcome = if self.log.closed() {
            Err(Refusal::unrecorded())
        } else {
            self.request(&via, head, &mut body, &mut ticket).await
        };
        if let Some(body) = body.filter(|_| outcome.is_err()) {
            drain(body);
        }
        let mut response = match outcome {
            Ok(Answer::Http(response, live)) => {
                let profile = self.profile(&live);
                if is_coded(response.headers()) {
                    ticket.takes(self.network.coded.slot().await);
                }
                stream(response, ticket, (live, profile), &self.network)
            }
            Ok(Answer::WebSocket(opened)) => return websocket::run(self, *opened, ticket),
            Err(refusal) => refuse(&refusal, ticket),
        };
        if asked {
            // The reader of this connection has stopped for the WebSocket that there is none of.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// What is looked for in answers on `live`: the secrets of now.
    pub fn profile(&self, live: &LiveRoute) -> Profile {
        self.routes.now().profile(&live.route.name).unwrap_or_else(|| live.profile.clone())
    }

    /// Opens a tunnel. Only a refusal is a line: each request inside has its own.
    fn connect(
        self: Arc<Self>,
        via: &Via,
        mut request: Request<Incoming>,
        mut ticket: Ticket,
    ) -> Response<Reply> {
        ticket.asks("CONNECT", None, None);
        let checked = match via {
            _ if self.log.closed() => Err(Refusal::unrecorded()),
            Via::Tunnel(_) => Err(Refusal::new(Rule::NestedConnect, "CONNECT inside a tunnel")),
            Via::Socket(slot) => tunnel_authority(request.uri()).and_then(|to| {
                ticket.to(&to);
                let routes = self.routes.now();
                routes
                    .check_tunnel(&to, self.guards())
                    .map(|()| (routes.passthrough(&to), to, slot.clone()))
            }),
        };
        match checked {
            Ok((passthrough, to, slot)) => {
                let upgrade = hyper::upgrade::on(&mut request);
                let tasks = self.tasks.clone();
                tasks.spawn(async move {
                    match passthrough {
                        Some(live) => passthrough::tunnel(self, upgrade, to, live, ticket).await,
                        None => connect::tunnel(self, upgrade, to, ticket).await,
                    }
                    drop(slot); // a tunnel is the same connection still
                });
                Response::new(Reply::Text(Full::default()))
            }
            Err(refusal) => {
                let mut response = refuse(&refusal, ticket);
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
    }

    /// `body` is taken once nothing is to be refused any more without looking at it.
    async fn request(
        &self,
        via: &Via,
        mut head: http::request::Parts,
        body: &mut Option<Incoming>,
        ticket: &mut Ticket,
    ) -> Result<Answer, Refusal> {
        if head.method.as_str() == SENTINEL && head.version != Version::HTTP_2 {
            let rule = Rule::from_code(head.uri.path().trim_start_matches('/'))
                .unwrap_or(Rule::RequestLine);
            return Err(Refusal::new(rule, "the request is not well-formed HTTP/1.1"));
        }
        // Before any check, so that a refused request shows as it was sent.
        ticket.asks(head.method.as_str(), Some(head.uri.path()), head.uri.query());
        let Destination { to, tls, target } = destination(via, &head.uri, ticket)?;
        ticket.asks(head.method.as_str(), Some(&target.path), target.query.as_deref());
        let guards = self.guards();
        check_head(&head, &to, tls, guards)?;
        let empty = body.as_ref().is_none_or(|b| b.is_end_stream());
        let handshake = if websocket::asked(&head.headers) {
            Some(websocket::Handshake::of(&mut head, empty)?)
        } else {
            None
        };

        let live = self.routes.now().find(&to, tls, head.method.as_str(), &target, guards)?;
        ticket.route(&live.route.name);
        check_overrides(&head.headers, &live, guards)?;
        if !empty && is_coded(&head.headers) {
            ticket.takes(self.network.coded.slot().await);
        }
        let replay = Arc::new(Mutex::new(Replay::default()));
        let mut outgoing = Outgoing::new((head, body), live, &to, target, ticket, guards, &replay)?;
        let (live, meter) = (outgoing.live.clone(), ticket.meter().clone());
        live.spend.request(live.route.rate, &live.route.budget, guards)?;
        ticket.admit()?;
        if let Some(handshake) = handshake {
            let opened = websocket::Opened::ask(handshake, outgoing, ticket).await?;
            return Ok(match opened {
                Ok(opened) => Answer::WebSocket(Box::new(opened)),
                Err(response) => Answer::Http(response, live),
            });
        }
        let (version, first) = outgoing.request(None)?;
        let protocol = outgoing.protocol;
        let mut response = live.upstream.send(first, protocol, &meter).await?;
        if let Some(credential) =
            live.credential.as_ref().filter(|_| response.status() == StatusCode::UNAUTHORIZED)
        {
            // Short-lived tokens: the orchestrator may have a new one, and what went up is tried
            // once more with it.
            let newer = credential.token.newer(version).await;
            let kept = std::mem::take(&mut *replay.lock().unwrap_or_else(PoisonError::into_inner));
            if let (true, Replay::Whole(body)) = (newer, kept) {
                drop(response);
                let body = Upload::again(body, meter.clone(), live.clone(), guards.clone());
                response =
                    live.upstream.send(outgoing.request(Some(body))?.1, protocol, &meter).await?;
            }
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::new(Rule::Upstream, "the upstream switched protocols unasked"));
        }
        Ok(Answer::Http(response, live))
    }
}

/// What came of a request.
enum Answer {
    Http(Response<Incoming>, Arc<LiveRoute>),
    WebSocket(Box<websocket::Opened>),
}

/// What both versions of HTTP must keep to.
fn check_head(
    head: &http::request::Parts,
    to: &Authority,
    tls: bool,
    guards: &Guards,
) -> Result<(), Refusal> {
    let method = head.method.as_str();
    guards.check(!is_method(method.as_bytes()), Rule::RequestLine, || "not a method".to_owned())?;
    let mut hosts = head.headers.get_all(HOST).iter();
    let (first, more) = (hosts.next(), hosts.next().is_some());
    guards.check(more, Rule::DuplicateHost, || "more than one Host".to_owned())?;
    // HTTP/2 says it in :authority, which was compared already.
    if first.is_some() || head.version != Version::HTTP_2 {
        let host = first.map_or(Ok(""), |h| h.to_str()).unwrap_or("\u{fffd}");
        let named = Authority::parse(host, Some(if tls { 443 } else { 80 }));
        guards.check(named.as_ref().ok() != Some(to), Rule::HostMismatch, || {
            format!("Host is {host:?}, the connection is for {to}")
        })?;
    }
    let echo = matches!(method, "TRACE" | "TRACK" | "DEBUG");
    guards.check(echo, Rule::Trace, || "this method would echo what the proxy adds".to_owned())
}

/// Headers that many frameworks take for another method or path than the request's own.
const OVERRIDES: &[&str] = &[
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
];

/// Where a route looks at methods or paths, no header may say others.
fn check_overrides(headers: &HeaderMap, live: &LiveRoute, guards: &Guards) -> Result<(), Refusal> {
    if live.route.methods.is_empty() && live.route.paths.is_empty() {
        return Ok(());
    }
    let named =
        headers.keys().find(|name| OVERRIDES.contains(&name.as_str().replace('_', "-").as_str()));
    guards.check(named.is_some(), Rule::Override, || {
        let name = named.map_or("", |n| n.as_str());
        format!("the header {name} may stand for another method or path than those that route {} allows", live.route.name)
    })
}

/// Whether a body with these headers has to be decoded.
fn is_coded(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The authority of CONNECT.
fn tunnel_authority(uri: &Uri) -> Result<Authority, Refusal> {
    // `CONNECT /path` and `CONNECT https://host` have no business here.
    if uri.scheme().is_some() || uri.path_and_query().is_some() {
        return Err(Refusal::new(Rule::Authority, "CONNECT wants host:port"));
    }
    Authority::parse(uri.authority().map_or("", |a| a.as_str()), None)
}

/// Where the request line points.
fn destination(via: &Via, uri: &Uri, ticket: &mut Ticket) -> Result<Destination, Refusal> {
    let raw = uri.path_and_query().map_or("/", |p| p.as_str());
    let target = || normalise(if raw.starts_with('?') { "" } else { raw });
    match (via, uri.scheme_str(), uri.authority()) {
        (Via::Tunnel(to), None, None) => {
            Ok(Destination { to: Authority::clone(to), tls: true, target: target()? })
        }
        (Via::Tunnel(to), Some("https"), Some(named)) => {
            let named = Authority::parse(named.as_str(), Some(443))?;
            if named != **to {
                return Err(Refusal::new(
                    Rule::HostMismatch,
                    format!("the request is for {named}, the connection for {to}"),
                ));
            }
            Ok(Destination { to: named, tls: true, target: target()? })
        }
        (Via::Socket(_), Some("http"), Some(named)) => {
            let to = Authority::parse(named.as_str(), Some(80))?;
            ticket.to(&to);
            Ok(Destination { to, tls: false, target: target()? })
        }
        (Via::Socket(_), Some("https"), Some(named)) => {
            if let Ok(to) = Authority::parse(named.as_str(), Some(443)) {
                ticket.to(&to);
            }
            Err(Refusal::new(
                Rule::HttpsAbsolute,
                "https:// goes through CONNECT, not in the request line",
            ))
        }
        (Via::Socket(_), None, None) => Err(Refusal::new(
            Rule::NotProxyForm,
            "this is a proxy: set HTTPS_PROXY to it, do not ask it for pages",
        )),
        _ => Err(Refusal::new(
            Rule::RequestLine,
            "the request line's target has a form that is not supported",
        )),
    }
}

/// A request as the upstream gets it, but for its credential.
pub struct Outgoing {
    /// Method and headers; no credential in them.
    head: http::request::Parts,
    /// Gone once it was sent.
    body: Option<Upload>,
    to: Authority,
    target: Target,
    /// Its route.
    pub live: Arc<LiveRoute>,
    /// In what HTTP it came.
    pub protocol: Protocol,
}

impl Outgoing {
    /// Looks through everything that is to leave but the body, whose turn comes as it streams.
    fn new(
        (mut head, body): (http::request::Parts, &mut Option<Incoming>),
        live: Arc<LiveRoute>,
        to: &Authority,
        mut target: Target,
        ticket: &Ticket,
        guards: &Guards,
        replay: &Arc<Mutex<Replay>>,
    ) -> Result<Self, Refusal> {
        let protocol =
            if head.version == Version::HTTP_2 { Protocol::Http2 } else { Protocol::Http1 };
        let trailers = protocol == Protocol::Http2 && takes_trailers(&head.headers);
        strip_hop_by_hop(&mut head.headers);
        if trailers {
            head.headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        join_cookies(&mut head.headers);
        let credential = live.credential.as_ref().map(|c| c.now().1);
        if let Some(credential) = &credential {
            credential.clear(&mut head.headers, &mut target.query);
        }
        head.headers.remove(HOST); // the connection to the upstream adds it where its HTTP has one
        head.version = Version::HTTP_11;
        head.extensions.clear();

        let text = target.path_and_query();
        let meter = ticket.meter();
        meter.note(
            "request target",
            &live.profile.target(Direction::Request, text.as_bytes()),
            guards,
        )?;
        let mut size = text.len();
        for (name, value) in &head.headers {
            size += name.as_str().len() + value.len() + 4;
            let found = live.profile.text_any_case(Direction::Request, name.as_str().as_bytes());
            meter.note("name of a header", &found, guards)?;
            let found = live.profile.header(Direction::Request, name.as_str(), value.as_bytes());
            meter.note(&format!("header {name}"), &found, guards)?;
        }
        let values: Vec<&[u8]> = head.headers.values().map(|value| value.as_bytes()).collect();
        let found = live.profile.joined(Direction::Request, &values);
        meter.note("headers together", &found, guards)?;
        let unsent = || Refusal::new(Rule::Aborted, "the request's body has been sent already");
        let length = body.as_ref().and_then(|b| b.size_hint().exact());
        if let Some(length) = length {
            check_size(&live, length, guards)?;
        }
        live.spend.up(size as u64, &live.route.budget, guards)?;
        let empty = body.as_ref().is_none_or(|b| b.is_end_stream());
        let scan = if empty || guards.is_off(Rule::Secret) {
            None
        } else {
            coded(&live.profile, Direction::Request, &head.headers, guards)?
        };
        let refreshable = live.credential.as_ref().is_some_and(|c| c.token.is_refreshable());
        let replay = refreshable.then(|| replay.clone());
        let body = body.take().ok_or_else(unsent)?;
        let body = Upload::new(body, meter.clone(), live.clone(), guards.clone(), scan, replay);
        Ok(Self { head, body: Some(body), to: to.clone(), target, live, protocol })
    }

    /// The headers.
    pub fn headers(&mut self) -> &mut HeaderMap {
        &mut self.head.headers
    }

    /// The request, with its credential of now and `body`, or the guest's body when it is asked for
    /// the first time; and the version of the credential's token.
    ///
    /// # Errors
    /// [`Rule::Path`].
    pub fn request(&mut self, body: Option<Upload>) -> Result<(u64, Request<Upload>), Refusal> {
        let spent = || Refusal::new(Rule::Aborted, "the request's body has been sent already");
        let body = body.or_else(|| self.body.take()).ok_or_else(spent)?;
        let again = self.live.credential.as_ref().is_some_and(|c| c.token.is_refreshable());
        let mut headers =
            if again { self.head.headers.clone() } else { std::mem::take(&mut self.head.headers) };
        let mut target = if again { self.target.clone() } else { std::mem::take(&mut self.target) };
        let (version, credential) =
            self.live.credential.as_ref().map(super::routes::LiveCredential::now).unzip();
        if let Some(credential) = credential {
            credential.inject(&mut headers, &mut target.query);
        }
        let scheme = if self.live.route.tls { "https" } else { "http" };
        let authority = self.to.host_header(if self.live.route.tls { 443 } else { 80 });
        let uri = format!("{scheme}://{authority}{}", target.path_and_query());
        let uri: Uri =
            uri.parse().map_err(|_| Refusal::new(Rule::Path, "the path cannot be sent on"))?;
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok((version.unwrap_or(0), request))
    }
}

/// The scanner for a body with these headers.
fn coded(
    profile: &Profile,
    direction: Direction,
    headers: &HeaderMap,
    guards: &Guards,
) -> Result<Option<Scan>, Refusal> {
    let codings: Vec<&str> =
        headers.get_all(CONTENT_ENCODING).iter().map(|v| v.to_str().unwrap_or("?")).collect();
    match profile.stream(direction, &codings.join(", ")) {
        Ok(scan) => Ok(Some(scan)),
        Err(e) => guards.check(true, Rule::Coding, || e.to_string()).map(|()| None),
    }
}

/// The upstream's response as the guest gets it.
fn stream(
    response: Response<Incoming>,
    mut ticket: Ticket,
    (live, profile): (Arc<LiveRoute>, Profile),
    network: &Network,
) -> Response<Reply> {
    let (mut head, body) = response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    head.headers.remove("alt-svc"); // the guest has no way to HTTP/3
    head.headers.remove(REFUSED); // only ours
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let scanned = (live.credential.is_some() || live.route.scan.responses)
        && !network.guards.is_off(Rule::Secret);
    let mut scan = None;
    if scanned {
        hide_secrets(&mut head.headers, &profile, &ticket);
        if !body.is_end_stream() {
            scan = match coded(&profile, Direction::Response, &head.headers, &network.guards) {
                Ok(scan) => scan,
                Err(refusal) => return refuse(&refusal, ticket),
            };
        }
    }
    ticket.status(head.status.as_u16());
    if body.is_end_stream() {
        ticket.finish(); // hyper does not poll an empty body
        return Response::from_parts(head, Reply::Text(Full::default()));
    }
    let times = (network.limits.silence, Instant::now() + network.limits.total);
    let download =
        Download::new(body, ticket, (live, profile), network.guards.clone(), scan, times);
    Response::from_parts(head, Reply::Stream(Box::new(download)))
}

/// Removes headers in which the upstream says one of the bundle's secrets back.
pub fn hide_secrets(headers: &mut HeaderMap, profile: &Profile, ticket: &Ticket) {
    let mut said = Vec::new();
    for (name, value) in headers.iter() {
        let found = profile.text(Direction::Response, value.as_bytes());
        if found.iter().any(|f| f.secret.is_some()) {
            said.push(name.clone());
        }
        // Nothing blocks here: what was found is taken out.
        let _ = ticket.meter().note(&format!("response header {name}"), &found, &Guards::default());
    }
    for name in said {
        headers.remove(name);
    }
}

/// Header of every refusal: its rule.
const REFUSED: &str = "x-bottle-refused";

/// A refusal as a response, and its line.
pub fn refuse(refusal: &Refusal, mut ticket: Ticket) -> Response<Reply> {
    ticket.status(refusal.rule.status().as_u16());
    ticket.fail(refusal);
    let mut response = Response::new(Reply::Text(Full::new(Bytes::from(refusal.body()))));
    *response.status_mut() = refusal.rule.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(REFUSED, HeaderValue::from_static(refusal.rule.code()));
    if refusal.rule == Rule::Rate {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
