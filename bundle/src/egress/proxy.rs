//! One request: the stages of docs/egress.md in order, then the answer.

use std::sync::{Arc, Mutex, PoisonError};

use bottle_scan::{Direction, Profile};
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version, request};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};

use super::audit::RequestAudit;
use super::body::download::Download;
use super::body::reply::{REFUSED, Reply, refuse};
use super::body::upload::{Replay, Upload, drain};
use super::http1::strict_reader::SENTINEL;
use super::outgoing::{Outgoing, body_scanner, is_coded};
use super::policy::routes::LiveRoute;
use super::refusal::{Refusal, Rule};
use super::request::agreement::check_head;
use super::request::destination::{Destination, Via};
use super::request::headers::{hide_secrets, strip_hop_by_hop};
use super::route::overrides::{check_destination, check_overrides};
use super::route::rules::RouteRules;
use super::shared::Shared;
use super::websocket::handshake::{AgreedWebSocket, GuestHandshake, is_websocket_request};
use super::websocket::relay;

/// What the upstream answered.
enum Answer {
    Http(Response<Incoming>, Arc<LiveRoute>),
    WebSocket(Box<AgreedWebSocket>),
}

/// Answers one request other than CONNECT. It never fails, because a refusal is an answer.
pub async fn handle(
    shared: Arc<Shared>,
    via: &Via,
    request: Request<Incoming>,
    mut audit: RequestAudit,
) -> Response<Reply> {
    let websocket = is_websocket_request(request.headers());
    audit.hold(shared.request_slot().await);
    let (head, body) = request.into_parts();
    let mut body = Some(body);
    let outcome = if shared.log.closed() {
        Err(Refusal::unrecorded())
    } else {
        forward(&shared, via, head, &mut body, &mut audit).await
    };
    if let Some(body) = body.filter(|_| outcome.is_err()) {
        drain(body);
    }
    let mut response = match outcome {
        Ok(Answer::Http(response, live)) => answer(&shared, response, &live.rules, audit).await,
        Ok(Answer::WebSocket(agreed)) => return relay::start(shared, *agreed, audit),
        Err(refusal) => refuse(&refusal, audit),
    };
    if websocket {
        // The reader of this connection reads no more HTTP after a request for a WebSocket.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Takes a request through all stages and sends it. `body` is taken once nothing more can be
/// refused without reading it.
async fn forward(
    shared: &Shared,
    via: &Via,
    mut head: request::Parts,
    body: &mut Option<Incoming>,
    audit: &mut RequestAudit,
) -> Result<Answer, Refusal> {
    let checks = shared.checks();
    reading(&head)?;
    // Set before any check, so that a refused request is recorded as it was sent.
    audit.set_request(head.method.as_str(), Some(head.uri.path()), head.uri.query());
    // Destination.
    let Destination { to, tls, target } = Destination::read(via, &head.uri, audit)?;
    // Agreement.
    check_head(&head, &to, tls, checks)?;
    let empty = body.as_ref().is_none_or(|b| b.is_end_stream());
    let handshake = if is_websocket_request(&head.headers) {
        Some(GuestHandshake::parse(&mut head, empty)?)
    } else {
        None
    };
    // Route.
    let live = shared.policy.now().find(&to, tls, head.method.as_str(), &target, checks)?;
    audit.set_route(&live.rules.route.name);
    check_overrides(&head.headers, &live.rules, checks)?;
    check_destination(&head.headers, head.method.as_str(), &to, &live.rules, checks)?;
    checks.refuse_if(
        handshake.is_some() && !live.rules.route.websocket,
        Rule::NoWebSocket,
        || format!("route {} allows no WebSocket (websocket = false)", live.rules.route.name),
    )?;
    // Scan.
    if !empty && is_coded(&head.headers) {
        audit.hold(shared.network.decoders.slot().await);
    }
    let replay = Arc::new(Mutex::new(Replay::default()));
    let outgoing = Outgoing::scan((head, body), live, &to, target, audit, checks, &replay)?;
    // Limits.
    let live = outgoing.live.clone();
    let route = &live.rules.route;
    live.rules.quota.request(route.rate, &route.budget, checks)?;
    // Record.
    audit.admit()?;
    // Address and credential.
    let Some(handshake) = handshake else {
        let response = send(shared, outgoing, &replay, audit).await?;
        return Ok(Answer::Http(response, live));
    };
    Ok(match AgreedWebSocket::ask(handshake, outgoing, audit).await? {
        Ok(agreed) => Answer::WebSocket(Box::new(agreed)),
        Err(response) => Answer::Http(response, live),
    })
}

/// Refuses what the strict reader has marked.
fn reading(head: &request::Parts) -> Result<(), Refusal> {
    if head.method.as_str() == SENTINEL && head.version != Version::HTTP_2 {
        let code = head.uri.path().trim_start_matches('/');
        let rule = Rule::from_code(code).unwrap_or(Rule::RequestLine);
        let reason = if rule == Rule::SlowHead {
            "the rest of the request's head did not come in time"
        } else {
            "the request is not well-formed HTTP/1.1"
        };
        return Err(Refusal::new(rule, reason));
    }
    Ok(())
}

/// Sends a request, and once more if the upstream rejects a token for which there is a newer value.
async fn send(
    shared: &Shared,
    mut outgoing: Outgoing,
    replay: &Mutex<Replay>,
    audit: &RequestAudit,
) -> Result<Response<Incoming>, Refusal> {
    let (live, protocol, meter) = (outgoing.live.clone(), outgoing.protocol, audit.meter());
    let (version, request) = outgoing.request(None)?;
    let mut response = live.upstream.send(request, protocol, meter, &live.rules).await?;
    let rejected = response.status() == StatusCode::UNAUTHORIZED;
    if let Some(credential) = live.rules.credential.as_ref().filter(|_| rejected) {
        let newer = credential.token.wait_for_newer(version).await;
        let sent = std::mem::take(&mut *replay.lock().unwrap_or_else(PoisonError::into_inner));
        if let (true, Replay::Whole(body)) = (newer, sent) {
            drop(response);
            let (rules, checks) = (live.rules.clone(), shared.checks().clone());
            let body = Upload::again(body, meter.clone(), rules, checks);
            let (_, request) = outgoing.request(Some(body))?;
            response = live.upstream.send(request, protocol, meter, &live.rules).await?;
        }
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::new(Rule::Upstream, "the upstream switched protocols unasked"));
    }
    Ok(response)
}

/// The upstream's response as the guest gets it: without secrets, its body searched as it streams.
async fn answer(
    shared: &Shared,
    response: Response<Incoming>,
    rules: &Arc<RouteRules>,
    mut audit: RequestAudit,
) -> Response<Reply> {
    let profile = shared.profile(rules);
    if is_coded(response.headers()) {
        audit.hold(shared.network.decoders.slot().await);
    }
    let (mut head, body) = response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    head.headers.remove("alt-svc"); // the guest cannot reach HTTP/3
    head.headers.remove(REFUSED); // only the proxy may set it
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let checks = shared.checks();
    let scanned =
        (rules.credential.is_some() || rules.route.scan.responses) && checks.enabled(Rule::Secret);
    let mut scan = None;
    if scanned {
        hide_secrets(&mut head.headers, &profile, &audit);
        if !body.is_end_stream() {
            scan = match body_scanner(&profile, Direction::Response, &head.headers, checks) {
                Ok(scan) => scan,
                Err(refusal) => return refuse(&refusal, audit),
            };
        }
    }
    audit.set_status(head.status.as_u16());
    if body.is_end_stream() {
        audit.finish(); // hyper does not poll an empty body
        return Response::from_parts(head, Reply::Text(Full::default()));
    }
    let times = shared.network.limits.times(&rules.route.timeout);
    let searched: (Arc<RouteRules>, Profile) = (rules.clone(), profile);
    let download = Download::new(body, audit, searched, checks.clone(), scan, times);
    Response::from_parts(head, Reply::Stream(Box::new(download)))
}
