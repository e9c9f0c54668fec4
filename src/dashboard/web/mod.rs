//! The dashboard's three views in a browser on this machine.
//!
//! There is no cookie, so no request can be forged: the page keeps the session's key in its own
//! storage and sends it with each request. The printed URL contains, behind `#`, a one-time token
//! that is exchanged for that key. Only the key gives access to `/events`, `/decide` and `/stop`.

#[cfg(test)]
mod attacks;
mod session;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::decide;
use super::model::{DashboardModel, LogLine};
use crate::checks::Checks;
use crate::error::{Context, ErrorKind, Result};
use crate::host::stderr::note;
use crate::state::Roots;
use crate::supervise::Verdict;
use session::Session;

/// How often files are read again while somebody watches.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// After how many refreshes processor time and memory are measured again.
const REFRESHES_PER_MEASURE: u32 = 12;
/// Connections at once; more of them wait.
const MAX_CONNECTIONS: usize = 32;
/// Largest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 16 << 10;
/// Log lines that a page gets at first.
const INITIAL_LINES: usize = 1000;

/// What stands between other pages and programs, and a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// A name that leads here is not ours.
    Host,
    /// Another page must not ask.
    Origin,
    /// Only who has the key sees and decides.
    Key,
    /// The token buys it once.
    Once,
    /// A form of another page cannot have our type.
    Type,
    /// [`MAX_BODY_BYTES`].
    Size,
}

type Reply = Response<BoxBody<Bytes, Infallible>>;

/// What pages show now.
#[derive(Default)]
struct Snapshot {
    state: Value,
    lines: Vec<LogLine>,
    written: u64,
}

struct Site {
    port: u16,
    roots: Roots,
    session: Session,
    checks: Checks<Check>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

/// Serves the dashboard on `port` of 127.0.0.1 (0: a free one), and prints the URL.
///
/// # Errors
/// `Usage` when the port cannot be used.
pub(crate) async fn serve(roots: Roots, port: u16) -> Result<()> {
    let what = || format!("cannot listen on 127.0.0.1:{port}");
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .await
        .context(ErrorKind::Usage, what)?;
    let port = listener.local_addr().context(ErrorKind::Internal, what)?.port();
    let (session, token) = Session::new()?;
    let snapshots = watch::Sender::default();
    let site = Rc::new(Site { port, roots, session, checks: Checks::on(), snapshots });
    println!("http://127.0.0.1:{port}/#{token}");
    note("bottle: open it in a browser on this machine; it works once. Ctrl-C ends this.");
    let local = tokio::task::LocalSet::new();
    local.run_until(async { tokio::join!(refresh(&site), accept(&site, listener)) }).await;
    Ok(())
}

/// Keeps the snapshot up to date while somebody watches.
async fn refresh(site: &Site) {
    let mut model = DashboardModel::new(site.roots.clone());
    let mut n: u32 = 0;
    loop {
        if site.snapshots.receiver_count() > 0 {
            match model.refresh(n % REFRESHES_PER_MEASURE == 0) {
                Ok(false) => {}
                Ok(true) => {
                    let skip = model.lines.len().saturating_sub(INITIAL_LINES);
                    let lines = model.lines.iter().skip(skip).cloned().collect();
                    let state = json!({ "bottles": model.bottles, "proposals": model.proposals });
                    site.snapshots.send_replace(Arc::new(Snapshot {
                        state,
                        lines,
                        written: model.written,
                    }));
                }
                Err(e) => tracing::warn!("{e:#}"),
            }
            n = n.wrapping_add(1);
        }
        tokio::time::sleep(REFRESH_INTERVAL).await;
    }
}

async fn accept(site: &Rc<Site>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let site = site.clone();
                tokio::task::spawn_local(async move {
                    connection(site, stream).await;
                    drop(slot);
                });
            }
            // No descriptor is free; one may be soon.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(site: Rc<Site>, stream: TcpStream) {
    let service = service_fn(|request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(with_security_headers(site.answer(request).await)) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .max_buf_size(32 << 10);
    if let Err(e) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("{e}");
    }
}

/// Sent with every response: only our own content, framed by nobody, kept in no cache.
const SECURITY_HEADERS: [(&str, &str); 8] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

fn with_security_headers(mut reply: Reply) -> Reply {
    for (name, value) in SECURITY_HEADERS {
        reply.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    reply
}

fn content(kind: &'static str, text: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(text.into()).boxed());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// What was done, or why not, for the page's status line.
fn outcome(outcome: Result<String, String>) -> Reply {
    let text = match outcome {
        Ok(done) => json!({ "done": done }),
        Err(refused) => json!({ "refused": refused }),
    };
    content("application/json", text.to_string())
}

fn refuse(status: StatusCode, why: &'static str) -> Reply {
    let mut reply = content("text/plain; charset=utf-8", why);
    *reply.status_mut() = status;
    reply
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginRequest {
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecideRequest {
    bottle: String,
    id: u32,
    verdict: Verdict,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StopRequest {
    bottle: String,
}

impl Site {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        // A name that leads here (DNS rebinding) is not ours, and neither is a page of another
        // origin.
        let of = |name| {
            request
                .headers()
                .get_all(name)
                .iter()
                .map(|v| v.to_str().unwrap_or("?"))
                .collect::<Vec<_>>()
        };
        let hosts = [format!("127.0.0.1:{}", self.port), format!("localhost:{}", self.port)];
        if self.checks.enabled(Check::Host)
            && !matches!(of(HOST)[..], [host] if hosts.iter().any(|h| h == host))
        {
            return refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "this is not the name of this server\n",
            );
        }
        if self.checks.enabled(Check::Origin)
            && of(ORIGIN).iter().any(|o| !hosts.iter().any(|h| *o == format!("http://{h}")))
        {
            return refuse(StatusCode::FORBIDDEN, "another page must not ask\n");
        }
        let opened =
            self.session.is_opened_by(request.headers()) || !self.checks.enabled(Check::Key);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        match (&method, path.as_str()) {
            (&Method::GET, "/") => content("text/html; charset=utf-8", include_str!("page.html")),
            (&Method::GET, "/page.js") => {
                content("text/javascript; charset=utf-8", include_str!("page.js"))
            }
            (&Method::GET, "/page.css") => {
                content("text/css; charset=utf-8", include_str!("page.css"))
            }
            (&Method::POST, "/login") => self.login(request).await,
            (&Method::GET, "/events") if opened => self.events(),
            (&Method::POST, "/decide") if opened => self.decide(request).await,
            (&Method::POST, "/stop") if opened => self.stop(request).await,
            (_, "/events" | "/decide" | "/stop") => {
                refuse(StatusCode::UNAUTHORIZED, "start `bottle web` again and open its URL\n")
            }
            _ => refuse(StatusCode::NOT_FOUND, "there is no such page\n"),
        }
    }

    async fn login(&self, request: Request<Incoming>) -> Reply {
        let key = self
            .read::<LoginRequest>(request)
            .await
            .map(|login| self.session.exchange(&login.token, self.checks.enabled(Check::Once)));
        match key {
            Ok(Some(key)) => content("application/json", json!({ "key": key }).to_string()),
            Ok(None) => refuse(
                StatusCode::FORBIDDEN,
                "this URL was used already, or is another's; start `bottle web` again\n",
            ),
            Err(refused) => refused,
        }
    }

    fn events(&self) -> Reply {
        let mut reply =
            Response::new(BoxBody::new(StreamBody::new(events(self.snapshots.subscribe()))));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        reply
    }

    async fn decide(&self, request: Request<Incoming>) -> Reply {
        let DecideRequest { bottle, id, verdict } = match self.read(request).await {
            Ok(deciding) => deciding,
            Err(refused) => return refused,
        };
        outcome(decide::decide(&self.roots, &bottle, id, "web", verdict).await)
    }

    async fn stop(&self, request: Request<Incoming>) -> Reply {
        match self.read::<StopRequest>(request).await {
            Ok(StopRequest { bottle }) => outcome(decide::stop(&self.roots, &bottle).await),
            Err(refused) => refused,
        }
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        request: Request<Incoming>,
    ) -> Result<T, Reply> {
        let bad = |_| refuse(StatusCode::BAD_REQUEST, "this is no request of our page\n");
        // A form of another page cannot have this type without asking first.
        if self.checks.enabled(Check::Type)
            && request.headers().get(CONTENT_TYPE).is_none_or(|t| t != "application/json")
        {
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json only\n"));
        }
        let most = if self.checks.enabled(Check::Size) { MAX_BODY_BYTES } else { usize::MAX };
        if request.body().size_hint().lower() > most as u64 {
            return Err(bad(String::new()));
        }
        let body = tokio::time::timeout(
            Duration::from_secs(10),
            Limited::new(request.into_body(), most).collect(),
        )
        .await;
        let body = body.map_err(|e| bad(e.to_string()))?.map_err(|e| bad(e.to_string()))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|e| bad(e.to_string()))
    }
}

/// Server-sent events: the state when it has changed, and lines that are new.
fn events(
    snapshots: watch::Receiver<Arc<Snapshot>>,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold((snapshots, None::<Arc<Snapshot>>), |(mut snapshots, before)| async move {
        if before.is_some() {
            // A comment now and then: a page that is gone is noticed.
            match tokio::time::timeout(Duration::from_secs(15), snapshots.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => {
                    return Some((
                        Ok(Frame::data(Bytes::from_static(b":\n\n"))),
                        (snapshots, before),
                    ));
                }
            }
        }
        let now = snapshots.borrow_and_update().clone();
        let was = before.as_ref().map_or(0, |b| b.written);
        let new = usize::try_from(now.written.saturating_sub(was))
            .unwrap_or(usize::MAX)
            .min(now.lines.len());
        let mut text = String::new();
        if before.as_ref().is_none_or(|b| b.state != now.state) {
            text += &format!("event: state\ndata: {}\n\n", now.state);
        }
        if new > 0 {
            text +=
                &format!("event: lines\ndata: {}\n\n", json!(now.lines[now.lines.len() - new..]));
        }
        Some((Ok(Frame::data(Bytes::from(text))), (snapshots, Some(now))))
    })
}
