//! What is measured, each the same way for everybody.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT,
};
use http::{Method, Request, StatusCode, Uri};

use super::client::{self, Client, Load};
use super::payload::{Payload, STREAMED_BYTES};
use super::{text, upstream};
use crate::daemon::Daemon;
use crate::report::median;

/// Name of the benchmark.
pub const BENCH: &str = "egress";
/// Number of connections of the load.
pub const CONNECTIONS: usize = 16;

pub const GET: &str = "keep-alive, 16 × GET";
pub const POST: &str = "keep-alive, 16 × POST";
pub const ONE: &str = "keep-alive, 1 × GET";
pub const HTTP2: &str = "HTTP/2, 16 streams";
pub const FRESH: &str = "new connection each, 16";
pub const DOWN: &str = "100 MB down";
pub const UP: &str = "100 MB up";
pub const UPLOAD: &str = "4 MB of text up";
pub const HELD: &str = "500 connections held";

/// What is asked for most.
pub const SMALL: &str = "/v1/models/bench";
/// Connections of [`HELD`].
const MANY: usize = 500;

/// One of them.
pub struct Case {
    /// What its figures are called.
    pub name: &'static str,
    what: What,
}

enum What {
    /// Connections, request, time.
    KeepAlive(usize, Box<Request<Payload>>, Duration),
    Http2(Duration),
    Fresh(Duration),
    Down,
    Up,
    Upload,
    Held,
}

type Measured = Result<Vec<(&'static str, f64)>, String>;

/// The cases of a round; what takes long or cannot vary is in the first alone.
pub fn all(span: Duration, first: bool) -> Vec<Case> {
    let case = |name, what| Case { name, what };
    let mut all = vec![
        case(GET, What::KeepAlive(CONNECTIONS, get(SMALL).into(), span)),
        case(POST, What::KeepAlive(CONNECTIONS, post().into(), span)),
        case(ONE, What::KeepAlive(1, get(SMALL).into(), span.mul_f64(0.4))),
        case(FRESH, What::Fresh(span.mul_f64(0.7))),
        case(DOWN, What::Down),
        case(UP, What::Up),
        case(UPLOAD, What::Upload),
    ];
    if first {
        all.push(case(HTTP2, What::Http2(span)));
        all.push(case(HELD, What::Held));
    }
    all
}

/// A request as agents' HTTP libraries send it. HTTP/1.1 has the origin form of `path`.
fn request(method: Method, path: &str, body: Payload) -> Request<Payload> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
    let headers = [
        (HOST, upstream::HOST),
        (USER_AGENT, "bench/1.0 (linux; x64)"),
        (ACCEPT, "application/json"),
        (ACCEPT_ENCODING, "gzip, deflate"),
        (AUTHORIZATION, "Bearer placeholder"),
        (HeaderName::from_static("anthropic-version"), "2023-06-01"),
    ];
    request
        .headers_mut()
        .extend(headers.map(|(name, value)| (name, HeaderValue::from_static(value))));
    request
}

/// A GET.
pub fn get(path: &str) -> Request<Payload> {
    request(Method::GET, path, Payload::default())
}

/// A POST with a small body of JSON.
pub fn post() -> Request<Payload> {
    const BODY: &str = r#"{"model":"bench-1","max_tokens":256,"messages":[{"role":"user","content":"What does this function return when the list is empty?"}]}"#;
    post_of(Bytes::from_static(BODY.as_bytes()).into())
}

fn post_of(body: Payload) -> Request<Payload> {
    let mut request = request(Method::POST, "/v1/messages", body);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

/// Whether a proxy injects and refuses: one that does not would be fast for the wrong reason.
pub async fn does_its_work(client: &Client) -> Result<(), String> {
    let mut connection = client.http1().await?;
    for request in [get(SMALL), post()] {
        let answer = connection.ask(request).await?;
        if !answer.with_token {
            return Err(format!("no token was injected: {}", answer.status));
        }
    }
    let answer = connection.ask(get("/v2/models/bench")).await?;
    if answer.status == StatusCode::FORBIDDEN {
        Ok(())
    } else {
        Err("a path that no route allows went through".to_owned())
    }
}

/// Nothing but GETs, for a profiler.
pub async fn profiled(daemon: &Daemon, client: &Client, span: Duration) -> Result<(), String> {
    let request = get(SMALL);
    let mut connections = client::open(client, CONNECTIONS, &request).await?;
    println!("{}", daemon.id());
    let cpu = daemon.cpu();
    let load = client::keep_alive(&mut connections, &request, span, None).await?;
    let micros = (daemon.cpu() - cpu) / load.micros.len() as f64;
    println!("{} requests, {:.0}/s, {micros:.1} µs each", load.micros.len(), load.rate());
    Ok(())
}

impl Case {
    /// Metrics and values.
    pub async fn measure(&self, client: &Client, daemon: Option<&Daemon>) -> Measured {
        let cpu = || daemon.map(Daemon::cpu);
        let spent = |before: Option<f64>| Some(cpu()? - before?);
        match &self.what {
            What::KeepAlive(n, request, span) => {
                let mut connections = client::open(client, *n, request).await?;
                let before = cpu();
                let watch = async {
                    let mut most: f64 = 0.0;
                    for _ in 0..8 {
                        tokio::time::sleep(span.mul_f64(0.11)).await;
                        most = most.max(daemon.map_or(0.0, Daemon::resident));
                    }
                    most
                };
                let (load, most) =
                    tokio::join!(client::keep_alive(&mut connections, request, *span, None), watch);
                let mut all = of_load(load?, spent(before));
                all.extend(daemon.map(|_| ("RSS", most)));
                Ok(all)
            }
            What::Http2(span) => {
                let before = cpu();
                let load = client::http2(client, CONNECTIONS, &over_http2(), *span).await?;
                Ok(of_load(load, spent(before)))
            }
            What::Fresh(span) => {
                let before = cpu();
                let load = client::fresh(client, CONNECTIONS, &get(SMALL), *span).await?;
                Ok(of_load(load, spent(before)))
            }
            What::Down => streamed(client, &get(upstream::LONG), cpu, STREAMED_BYTES).await,
            What::Up => {
                streamed(client, &post_of(Payload::streamed(text::large().into())), cpu, 0).await
            }
            What::Upload => {
                let request = post_of(Bytes::from(text::large()).into());
                let mut connection = client.http1().await?;
                let mut all = Vec::new();
                for _ in 0..11 {
                    let began = Instant::now();
                    connection.expect(request.clone()).await?;
                    all.push(began.elapsed().as_secs_f64() * 1e3);
                }
                all.remove(0); // the upstream's connection may be a new one
                Ok(vec![("wall", median(all))])
            }
            What::Held => {
                let (began, request) = (Instant::now(), get(SMALL));
                let mut connections = client::open(client, MANY, &request).await?;
                let mut answered = connections.len();
                for connection in &mut connections {
                    connection
                        .expect(request.clone())
                        .await
                        .map_err(|e| format!("after {answered} answers: {e}"))?;
                    answered += 1;
                }
                let wall = began.elapsed().as_secs_f64() * 1e3;
                let mut all = vec![("answered", answered as f64), ("wall", wall)];
                all.extend(daemon.map(|d| ("RSS", d.resident())));
                drop(connections);
                tokio::time::sleep(Duration::from_millis(500)).await;
                all.extend(daemon.map(|d| ("RSS after", d.resident())));
                Ok(all)
            }
        }
    }
}

/// The same GET with the whole URI, and no Host, as HTTP/2 has it.
fn over_http2() -> Request<Payload> {
    let mut request = get(&format!("https://{}{SMALL}", upstream::HOST));
    request.headers_mut().remove(HOST);
    request
}

fn of_load(mut load: Load, cpu: Option<f64>) -> Vec<(&'static str, f64)> {
    let mut all =
        vec![("rate", load.rate()), ("p50", load.percentile(0.5)), ("p99", load.percentile(0.99))];
    all.extend(cpu.map(|us| ("CPU/request", us / load.micros.len() as f64)));
    all
}

/// One request with a long body in one of its directions, three times on a connection that has been
/// used; the median.
async fn streamed(
    client: &Client,
    request: &Request<Payload>,
    cpu: impl Fn() -> Option<f64>,
    down: usize,
) -> Measured {
    const TIMES: usize = 3;
    let mut connection = client.http1().await?;
    connection.expect(get(SMALL)).await?;
    let megabytes = STREAMED_BYTES as f64 / 1e6;
    let (before, mut rates) = (cpu(), Vec::new());
    for _ in 0..TIMES {
        let began = Instant::now();
        let answer = connection.expect(request.clone()).await?;
        rates.push(megabytes / began.elapsed().as_secs_f64());
        if down > 0 && answer.body != down as u64 {
            return Err(format!("{} bytes of {down}", answer.body));
        }
    }
    let mut all = vec![("rate", median(rates))];
    all.extend(
        cpu()
            .zip(before)
            .map(|(after, before)| ("CPU/MB", (after - before) / megabytes / TIMES as f64)),
    );
    Ok(all)
}
