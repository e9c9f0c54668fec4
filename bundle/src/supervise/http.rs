//! The front door: HTTP/1.1 on the socket, bounded, then the SDK, without sessions: no request
//! leaves anything behind.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
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
use tokio::sync::{Semaphore, watch};

use super::Limits;
use super::checks::{Guard, Guards};
use super::tools::Tools;

/// An answer.
pub type Reply = Response<BoxBody<Bytes, Infallible>>;

/// HTTP to tools.
pub struct Door {
    sdk: StreamableHttpService<Tools, NeverSessionManager>,
    limits: Limits,
    guards: Guards,
}

impl Door {
    /// Leads to `tools`.
    #[must_use]
    pub fn new(tools: Tools, limits: Limits) -> Arc<Self> {
        // Origin and Host are checked although only the guest gets here: a browser in it is
        // somebody else's program.
        let guards = tools.guards().clone();
        let config = StreamableHttpServerConfig::default()
            .with_stateful_mode(false)
            .with_json_response(true);
        let config = match guards.hold(Guard::Origin) {
            true => config.with_allowed_origins(["http://127.0.0.1:9100", "http://localhost:9100"]),
            false => config.disable_allowed_origins(),
        };
        let config = if guards.hold(Guard::Host) { config } else { config.disable_allowed_hosts() };
        let sdk = StreamableHttpService::new(
            move || Ok(tools.clone()),
            Arc::new(NeverSessionManager::default()),
            config,
        );
        Arc::new(Self { sdk, limits, guards })
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        if self.guards.hold(Guard::Path) && !matches!(head.uri.path(), "/" | "/mcp") {
            return text(StatusCode::NOT_FOUND, "the MCP server is at /\n");
        }
        if head.method != Method::POST {
            let mut reply = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "this server has no sessions and no streams: POST only\n",
            );
            reply.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static("POST"));
            return reply;
        }
        let most = if self.guards.hold(Guard::Size) { self.limits.body_bytes } else { usize::MAX };
        let whole = Limited::new(body, most).collect();
        let body = match tokio::time::timeout(self.limits.body, whole).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(e)) if e.is::<LengthLimitError>() => {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "more than 64 KiB\n");
            }
            Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the request broke off\n"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the request took too long\n"),
        };
        self.sdk.handle(Request::from_parts(head, Full::new(body))).await
    }

    async fn connection(&self, stream: UnixStream) {
        let service =
            service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request).await) });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_buf_size(32 << 10);
        if let Err(e) = builder.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!("connection: {e}");
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Reply {
    let mut reply = Response::new(Full::from(text).boxed());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    reply
}

/// Accepts until the end is called. What waits then is cut off: the bottle ends.
///
/// # Errors
/// The listener fails for good.
pub async fn serve(
    door: Arc<Door>,
    listener: UnixListener,
    mut ending: watch::Receiver<bool>,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(door.limits.connections));
    loop {
        let slot = slots.clone().acquire_owned().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.wait_for(|end| *end) => return Ok(()),
        };
        match accepted {
            Ok((stream, _)) => {
                let door = door.clone();
                tokio::spawn(async move {
                    door.connection(stream).await;
                    drop(slot);
                });
            }
            Err(e) if e.raw_os_error().is_some_and(|n| n == libc::EBADF || n == libc::EINVAL) => {
                return Err(e);
            }
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await; // out of descriptors; a pause, not a hope
            }
        }
    }
}
