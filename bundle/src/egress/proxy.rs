//! One request: checks in order, then on to its route.

use std::sync::Arc;

use bottle_policy::audit::AuditWriter;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::task::TaskTracker;

use super::authority::Authority;
use super::body::{Download, Reply, Upload};
use super::connect;
use super::headers::{set_host, strip_hop_by_hop};
use super::path::{Target, normalise};
use super::refusal::{Guards, Refusal, Rule};
use super::routes::{LiveRoute, Routes};
use super::ticket::Ticket;
use super::tls::Leaves;
use super::upstream::Network;
use super::wire::SENTINEL;

/// Everything that connections share.
pub struct Proxy {
    /// The policy.
    pub routes: Routes,
    /// Certificates.
    pub leaves: Leaves,
    /// The log.
    pub log: Arc<AuditWriter>,
    /// Lookup, limits, rules in force.
    pub network: Arc<Network>,
    /// Every connection and tunnel that is open.
    pub tasks: TaskTracker,
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
        let mut ticket = Ticket::new(self.log.clone(), self.cut.subscribe());
        if let Via::Tunnel(to) = &via {
            ticket.to(to);
        }
        if request.method() == Method::CONNECT {
            return self.connect(&via, request, ticket);
        }
        let outcome = if self.log.closed() { Err(Refusal::unrecorded()) } else { self.request(&via, request, &mut ticket).await };
        match outcome {
            Ok(response) => stream(response, ticket, self.network.limits.silence),
            Err(refusal) => refuse(&refusal, ticket),
        }
    }

    /// Opens a tunnel. Only a refusal is a line: each request inside has its own.
    fn connect(self: Arc<Self>, via: &Via, mut request: Request<Incoming>, mut ticket: Ticket) -> Response<Reply> {
        ticket.asks("CONNECT", None, None);
        let checked = match via {
            _ if self.log.closed() => Err(Refusal::unrecorded()),
            Via::Tunnel(_) => Err(Refusal::new(Rule::NestedConnect, "CONNECT inside a tunnel")),
            Via::Socket(slot) => tunnel_authority(request.uri()).and_then(|to| {
                ticket.to(&to);
                self.routes.check_tunnel(&to, self.guards()).map(|()| (to, slot.clone()))
            }),
        };
        match checked {
            Ok((to, slot)) => {
                let upgrade = hyper::upgrade::on(&mut request);
                let tasks = self.tasks.clone();
                tasks.spawn(async move {
                    connect::tunnel(self, upgrade, to, ticket).await;
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

    async fn request(&self, via: &Via, request: Request<Incoming>, ticket: &mut Ticket) -> Result<Response<Incoming>, Refusal> {
        if request.method().as_str() == SENTINEL {
            let rule = Rule::from_code(request.uri().path().trim_start_matches('/')).unwrap_or(Rule::RequestLine);
            return Err(Refusal::new(rule, "the request is not well-formed HTTP/1.1"));
        }
        let uri = request.uri();
        // Before any check, so that a refused request shows as it was sent.
        ticket.asks(request.method().as_str(), Some(uri.path()), uri.query());
        let Destination { to, tls, target } = destination(via, uri, ticket)?;
        ticket.asks(request.method().as_str(), Some(&target.path), target.query.as_deref());
        let guards = self.guards();

        let host = request.headers().get(HOST).map_or(Ok(""), |h| h.to_str()).unwrap_or("\u{fffd}");
        let named = Authority::parse(host, Some(if tls { 443 } else { 80 }));
        guards.check(named.as_ref().ok() != Some(&to), Rule::HostMismatch, || format!("Host is {host:?}, the connection is for {to}"))?;
        let echo = matches!(request.method().as_str(), "TRACE" | "TRACK" | "DEBUG");
        guards.check(echo, Rule::Trace, || "this method would echo what the proxy adds".to_owned())?;
        let upgrade = request.headers().contains_key(UPGRADE);
        guards.check(upgrade, Rule::Upgrade, || "protocol upgrades (such as WebSocket) are not supported yet".to_owned())?;

        let live = self.routes.find(&to, tls, request.method().as_str(), &target, guards)?;
        ticket.route(&live.route.name);
        let upload = forward(request, &live, &to, &target, ticket)?;
        ticket.admit()?;
        let response = live.upstream.send(upload, ticket.meter()).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::new(Rule::Upstream, "the upstream switched protocols unasked"));
        }
        Ok(response)
    }
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
        (Via::Tunnel(to), None, None) => Ok(Destination { to: Authority::clone(to), tls: true, target: target()? }),
        (Via::Tunnel(to), Some("https"), Some(named)) => {
            let named = Authority::parse(named.as_str(), Some(443))?;
            if named != **to {
                return Err(Refusal::new(Rule::HostMismatch, format!("the request is for {named}, the connection for {to}")));
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
            Err(Refusal::new(Rule::HttpsAbsolute, "https:// goes through CONNECT, not in the request line"))
        }
        (Via::Socket(_), None, None) => {
            Err(Refusal::new(Rule::NotProxyForm, "this is a proxy: set HTTPS_PROXY to it, do not ask it for pages"))
        }
        _ => Err(Refusal::new(Rule::RequestLine, "the request line's target has a form that is not supported")),
    }
}

/// The request as the upstream gets it.
fn forward(
    request: Request<Incoming>,
    live: &LiveRoute,
    to: &Authority,
    target: &Target,
    ticket: &Ticket,
) -> Result<Request<Upload>, Refusal> {
    let (mut head, body) = request.into_parts();
    let scheme = if live.route.tls { "https" } else { "http" };
    let uri = format!("{scheme}://{to}{}", target.path_and_query());
    head.uri = uri.parse().map_err(|_| Refusal::new(Rule::Path, "the path cannot be sent on"))?;
    head.version = Version::HTTP_11;
    strip_hop_by_hop(&mut head.headers);
    set_host(&mut head.headers, to, if live.route.tls { 443 } else { 80 });
    if let Some(credential) = &live.credential {
        credential.inject(&mut head.headers);
    }
    head.extensions.clear();
    Ok(Request::from_parts(head, Upload::new(body, ticket.meter().clone())))
}

/// The upstream's response as the guest gets it.
fn stream(response: Response<Incoming>, mut ticket: Ticket, silence: std::time::Duration) -> Response<Reply> {
    let (mut head, body) = response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    head.headers.remove("alt-svc"); // the guest has no way to HTTP/3
    head.version = Version::HTTP_11;
    head.extensions.clear();
    ticket.status(head.status.as_u16());
    if body.is_end_stream() {
        ticket.finish(); // hyper does not poll an empty body
        return Response::from_parts(head, Reply::Text(Full::default()));
    }
    Response::from_parts(head, Reply::Stream(Box::new(Download::new(body, ticket, silence))))
}

/// A refusal as a response, and its line.
pub fn refuse(refusal: &Refusal, mut ticket: Ticket) -> Response<Reply> {
    ticket.status(refusal.rule.status().as_u16());
    ticket.fail(refusal);
    let mut response = Response::new(Reply::Text(Full::new(Bytes::from(refusal.body()))));
    *response.status_mut() = refusal.rule.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-bottle-refused", HeaderValue::from_static(refusal.rule.code()));
    response
}
