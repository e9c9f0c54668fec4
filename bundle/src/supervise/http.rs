//! The MCP endpoint: HTTP/1.1 on the socket with limits, then the SDK. There are no sessions, so no
//! request leaves anything behind.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::checks::{Check, Checks};
use super::tools::Tools;
use crate::daemon::accept::accept_until;

/// Origins of pages that the server itself could have served.
const ORIGINS: [&str; 2] = ["http://127.0.0.1:9100", "http://localhost:9100"];
/// Largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// Bounds on what a guest can make the daemon hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from the guest at once; more wait.
    pub connections: usize,
    /// Calls that wait for a decision at once. More than these are answered without waiting.
    pub waiting: usize,
    /// Longest wait for a decision. The agents' own clients give up after 60 s.
    pub wait: Duration,
    /// Time for the head of a request, and for a connection without a request.
    pub head: Duration,
    /// Time for a body.
    pub body: Duration,
    /// Largest body, in bytes.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            waiting: 16,
            wait: Duration::from_secs(50),
            head: Duration::from_secs(60),
            body: Duration::from_secs(20),
            body_bytes: 64 << 10,
        }
    }
}

/// The response to a request.
pub type McpResponse = Response<BoxBody<Bytes, Infallible>>;

/// Serves the tools over HTTP.
pub struct McpEndpoint {
    sdk: StreamableHttpService<Tools, NeverSessionManager>,
    limits: Limits,
    checks: Checks,
}

impl McpEndpoint {
    /// Serves `tools`.
    #[must_use]
    pub fn new(tools: Tools, limits: Limits) -> Arc<Self> {
        // Only the guest can connect, but a browser in the guest runs programs of other people.
        // That is why Origin and Host are checked.
        let checks = tools.checks().clone();
        let config = StreamableHttpServerConfig::default()
            .with_stateful_mode(false)
            .with_json_response(true);
        let config = match checks.enabled(Check::Origin) {
            true => config.with_allowed_origins(ORIGINS),
            false => config.disable_allowed_origins(),
        };
        let config = match checks.enabled(Check::Host) {
            true => config,
            false => config.disable_allowed_hosts(),
        };
        let sdk = StreamableHttpService::new(
            move || Ok(tools.clone()),
            Arc::new(NeverSessionManager::default()),
            config,
        );
        Arc::new(Self { sdk, limits, checks })
    }

    /// Accepts connections until `ending` becomes true. Calls that wait then are cut off.
    ///
    /// # Errors
    /// The listener is broken for good.
    pub async fn serve(
        self: Arc<Self>,
        listener: UnixListener,
        ending: watch::Receiver<bool>,
    ) -> io::Result<()> {
        accept_until(listener, self.limits.connections, ending, |stream, slot| {
            let this = self.clone();
            tokio::spawn(async move {
                this.connection(stream).await;
                drop(slot);
            });
        })
        .await
    }

    async fn connection(&self, stream: UnixStream) {
        let service =
            service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request).await) });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_buf_size(MAX_HEAD_BYTES);
        if let Err(e) = builder.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!("connection: {e}");
        }
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> McpResponse
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        if self.checks.enabled(Check::Path) && !matches!(head.uri.path(), "/" | "/mcp") {
            return text(StatusCode::NOT_FOUND, "the MCP server is at /\n");
        }
        if head.method != Method::POST {
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "this server has no sessions and no streams: POST only\n",
            );
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let limited = self.checks.enabled(Check::BodySize);
        let max = if limited { self.limits.body_bytes } else { usize::MAX };
        let collected = Limited::new(body, max).collect();
        let body = match tokio::time::timeout(self.limits.body, collected).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(e)) if e.is::<LengthLimitError>() => {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "more than 64 KiB\n");
            }
            Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the request was cut off\n"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the request took too long\n"),
        };
        self.sdk.handle(Request::from_parts(head, Full::new(body))).await
    }
}

fn text(status: StatusCode, text: &'static str) -> McpResponse {
    let mut response = Response::new(Full::from(text).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
