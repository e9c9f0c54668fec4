//! `bottle web`: the dashboard's three views in a browser on this machine.
//!
//! No cookie and so no request forgery: the page has the session's key in its own storage and sends
//! it with each request. The URL that is printed holds, behind `#`, a token that buys that key
//! once. Nothing but the key opens `/events` and `/decide`.

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

use super::model::{Board, LogLine};
use crate::checks::Checks;
use crate::error::{Context, Kind, Result};
use crate::host::stderr::say;
use crate::launch;
use crate::state::Roots;
use crate::supervise::{Answer, Decide, Verdict};
use session::Session;

/// How often files are looked at while somebody watches, and every how many looks processor and
/// memory are measured.
const LOOK: Duration = Duration::from_millis(250);
const MEASURE: u32 = 12;
/// Connections at once; more wait.
const CONNECTIONS: usize = 32;
/// Largest body, bytes.
const BODY: usize = 16 << 10;
/// Longest time for a teardown.
const STOPPED: Duration = Duration::from_secs(30);
/// Lines that a page gets at first.
const LINES: usize = 1000;

/// Serve the dashboard to a browser on this machine.
///
/// The URL that is printed works once: open it in the browser that is to decide. Another one: start
/// this again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port on 127.0.0.1 (default: a free one).
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// What stands between other pages and programs, and a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
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
    /// [`BODY`].
    Size,
}

type Reply = Response<BoxBody<Bytes, Infallible>>;

/// What pages show now.
#[derive(Default)]
struct Shot {
    state: Value,
    lines: Vec<LogLine>,
    written: u64,
}

struct Site {
    port: u16,
    roots: Roots,
    session: Session,
    guards: Checks<Guard>,
    shots: watch::Sender<Arc<Shot>>,
}

impl Args {
    pub(crate) fn run(&self) -> Result<u8> {
        let roots = Roots::from_environment()?;
        crate::host::runtime::block_on(async {
            let what = || format!("cannot listen on 127.0.0.1:{}", self.port);
            let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
                .await
                .context(Kind::Usage, what)?;
            let port = listener.local_addr().context(Kind::Internal, what)?.port();
            let (session, token) = Session::new()?;
            let site = Rc::new(Site {
                port,
                roots,
                session,
                guards: Checks::on(),
                shots: watch::Sender::default(),
            });
            println!("http://127.0.0.1:{port}/#{token}");
            say("bottle: open it in a browser on this machine; it works once. Ctrl-C ends this.");
            let local = tokio::task::LocalSet::new();
            local.run_until(async { tokio::join!(look(&site), serve(&site, listener)) }).await;
            Ok(0)
        })
    }
}

/// Keeps the shot up to date while there is somebody to see it.
async fn look(site: &Site) {
    let mut board = Board::new(site.roots.clone());
    let mut n: u32 = 0;
    loop {
        if site.shots.receiver_count() > 0 {
            match board.look(n % MEASURE == 0) {
                Ok(false) => {}
                Ok(true) => {
                    let skip = board.lines.len().saturating_sub(LINES);
                    let lines = board.lines.iter().skip(skip).cloned().collect();
                    let state = json!({ "bottles": board.bottles, "proposals": board.proposals });
                    site.shots.send_replace(Arc::new(Shot {
                        state,
                        lines,
                        written: board.written,
                    }));
                }
                Err(e) => tracing::warn!("{e}"),
            }
            n = n.wrapping_add(1);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn serve(site: &Rc<Site>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let site = site.clone();
                tokio::task::spawn_local(async move {
                    connection(site, stream).await;
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await, // out of descriptors; a pause, not a hope
        }
    }
}

async fn connection(site: Rc<Site>, stream: TcpStream) {
    let service = service_fn(|request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(guarded(site.answer(request).await)) }
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

/// What every answer says: no content but our own, nowhere else, kept by nobody.
const HEADERS: [(&str, &str); 8] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

fn guarded(mut reply: Reply) -> Reply {
    for (name, value) in HEADERS {
        reply.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    reply
}

fn content(kind: &'static str, text: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(text.into()).boxed());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

fn refuse(status: StatusCode, why: &'static str) -> Reply {
    let mut reply = content("text/plain; charset=utf-8", why);
    *reply.status_mut() = status;
    reply
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deciding {
    bottle: String,
    id: u32,
    verdict: Verdict,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stopping {
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
        if self.guards.enabled(Guard::Host)
            && !matches!(of(HOST)[..], [host] if hosts.iter().any(|h| h == host))
        {
            return refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "this is not the name of this server\n",
            );
        }
        if self.guards.enabled(Guard::Origin)
            && of(ORIGIN).iter().any(|o| !hosts.iter().any(|h| *o == format!("http://{h}")))
        {
            return refuse(StatusCode::FORBIDDEN, "another page must not ask\n");
        }
        let opened =
            self.session.is_opened_by(request.headers()) || !self.guards.enabled(Guard::Key);
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
        let bought = self
            .read::<Login>(request)
            .await
            .map(|login| self.session.buy(&login.token, self.guards.enabled(Guard::Once)));
        match bought {
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
            Response::new(BoxBody::new(StreamBody::new(events(self.shots.subscribe()))));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        reply
    }

    async fn decide(&self, request: Request<Incoming>) -> Reply {
        let Deciding { bottle, id, verdict } = match self.read(request).await {
            Ok(deciding) => deciding,
            Err(refused) => return refused,
        };
        let answer = match self.roots.bottle(&bottle) {
            Ok(dir) => launch::decide(&dir, Decide { id, via: "web".into(), verdict }).await,
            Err(e) => Err(e),
        };
        let text = match answer {
            Ok(Answer::Done { text }) => json!({ "done": text }),
            Ok(Answer::Outdated { .. }) => {
                json!({ "refused": "the policy has changed: look again, nothing is decided" })
            }
            Ok(Answer::Refused { why, .. }) => json!({ "refused": why }),
            Err(e) => json!({ "refused": e.to_string() }),
        };
        content("application/json", text.to_string())
    }

    async fn stop(&self, request: Request<Incoming>) -> Reply {
        let stopped =
            match self.read::<Stopping>(request).await.map(|s| self.roots.bottle(&s.bottle)) {
                Ok(Ok(dir)) => {
                    launch::stop(&dir, STOPPED).await.map(|()| format!("{} is stopped", dir.slug()))
                }
                Ok(Err(e)) => Err(e),
                Err(refused) => return refused,
            };
        let text = stopped
            .map_or_else(|e| json!({ "refused": e.to_string() }), |text| json!({ "done": text }));
        content("application/json", text.to_string())
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        request: Request<Incoming>,
    ) -> Result<T, Reply> {
        let bad = |_| refuse(StatusCode::BAD_REQUEST, "this is no request of our page\n");
        // A form of another page cannot have this type without asking first.
        if self.guards.enabled(Guard::Type)
            && request.headers().get(CONTENT_TYPE).is_none_or(|t| t != "application/json")
        {
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json only\n"));
        }
        let most = if self.guards.enabled(Guard::Size) { BODY } else { usize::MAX };
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
    shots: watch::Receiver<Arc<Shot>>,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold((shots, None::<Arc<Shot>>), |(mut shots, before)| async move {
        if before.is_some() {
            // A comment now and then: a page that is gone is noticed.
            match tokio::time::timeout(Duration::from_secs(15), shots.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => {
                    return Some((Ok(Frame::data(Bytes::from_static(b":\n\n"))), (shots, before)));
                }
            }
        }
        let now = shots.borrow_and_update().clone();
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
        Some((Ok(Frame::data(Bytes::from(text))), (shots, Some(now))))
    })
}
