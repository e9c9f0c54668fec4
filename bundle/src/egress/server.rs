//! Connections: HTTP on the socket, tunnels after CONNECT, and their end with the daemon.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;

use super::audit::RequestAudit;
use super::body::reply::{Reply, refuse};
use super::http1::strict_reader::{OpenRequests, Peer, StrictReader};
use super::policy::routes::{LiveRoute, TunnelUse};
use super::proxy;
use super::refusal::{Refusal, Rule};
use super::request::authority::Authority;
use super::request::destination::{Via, tunnel_authority};
use super::shared::Shared;
use super::tunnel::guest_stream::Prefixed;
use super::tunnel::intercept::{self, Tunnel};
use super::tunnel::raw;
use crate::daemon::accept::{accept_until, drain};
use crate::daemon::connection;

/// Time in which requests that are cut off are dropped, which writes their audit lines.
const CUT_OFF_TIME: Duration = Duration::from_millis(150);

/// Serves connections until the daemon has to end, then lets those that are open finish for a
/// while, and cuts off the rest.
///
/// # Errors
/// The listener is broken for good.
pub async fn serve(shared: Arc<Shared>, listener: UnixListener) -> io::Result<()> {
    let limits = &shared.network.limits;
    accept_until(listener, limits.connections, shared.ending.clone(), |io, slot| {
        let (shared, tasks) = (shared.clone(), shared.tasks.clone());
        tasks.spawn(async move {
            let reader =
                StrictReader::new(io, shared.checks().clone(), shared.network.limits.begun_head);
            serve_socket(shared, reader, Arc::new(slot)).await;
        });
    })
    .await?;
    let open = drain(&shared.tasks, limits.drain).await;
    if open > 0 {
        tracing::warn!("{open} connections are cut off at the end");
        shared.cut.send_replace(true);
        drain(&shared.tasks, CUT_OFF_TIME).await; // what is left is dropped with the runtime
    }
    Ok(())
}

/// HTTP/1.1 on the proxy's socket, with CONNECT. `slot` is the connection's place among
/// [`super::limits::Limits::connections`]; a tunnel keeps it.
async fn serve_socket(
    shared: Arc<Shared>,
    io: StrictReader<UnixStream>,
    slot: Arc<OwnedSemaphorePermit>,
) {
    let (handler, open) = (shared.clone(), io.open_requests());
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, slot, open) = (handler.clone(), slot.clone(), open.clone());
        async move {
            let audit = shared.start_audit();
            let response = if request.method() == Method::CONNECT {
                connect(shared, request, audit, slot)
            } else {
                proxy::handle(shared, &Via::Socket, request, audit).await
            };
            Ok::<_, Infallible>(tracked(open, response))
        }
    });
    let connection = http1_builder(&shared).serve_connection(TokioIo::new(io), service);
    run(&shared, connection.with_upgrades(), |c| c.graceful_shutdown()).await;
}

/// Answers CONNECT, and serves the tunnel in a task of its own. Only a refusal writes an audit line:
/// each request inside the tunnel has lines of its own.
fn connect(
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
    mut audit: RequestAudit,
    slot: Arc<OwnedSemaphorePermit>,
) -> Response<Reply> {
    audit.set_request("CONNECT", None, None);
    let checked = if shared.log.closed() {
        Err(Refusal::unrecorded())
    } else {
        check_connect(&shared, &request, &mut audit)
    };
    let (to, allowed, passthrough) = match checked {
        Ok(tunnel) => tunnel,
        Err(refusal) => return refuse_connect(&refusal, audit),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        if let Some(live) = passthrough {
            raw::carry(&shared, upgrade, to, live, audit).await;
        } else {
            match intercept::open(&shared, upgrade, &to, allowed).await {
                Ok(tunnel) => {
                    audit.discard();
                    if let Some(tunnel) = tunnel {
                        serve_tunnel(shared, tunnel, to).await;
                    }
                }
                Err(refusal) => audit.fail(&refusal),
            }
        }
        drop(slot);
    });
    Response::new(Reply::Text(Full::default()))
}

/// Where a tunnel goes, what it may carry, and its route if that is a passthrough route.
fn check_connect(
    shared: &Shared,
    request: &Request<Incoming>,
    audit: &mut RequestAudit,
) -> Result<(Authority, TunnelUse, Option<Arc<LiveRoute>>), Refusal> {
    let to = tunnel_authority(request.uri())?;
    audit.set_destination(&to.host, to.port);
    let routes = shared.policy.now();
    let allowed = routes.check_tunnel(&to, shared.checks())?;
    let passthrough = routes.passthrough(&to);
    Ok((to, allowed, passthrough))
}

fn refuse_connect(refusal: &Refusal, audit: RequestAudit) -> Response<Reply> {
    let mut response = refuse(refusal, audit);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// HTTP/1.1 or HTTP/2 inside a tunnel, as the TLS handshake has agreed. Without TLS it is HTTP/1.1.
async fn serve_tunnel(shared: Arc<Shared>, tunnel: Tunnel, to: Authority) {
    let via = Via::Tunnel { to: Arc::new(to), tls: matches!(tunnel, Tunnel::Tls(_)) };
    match tunnel {
        Tunnel::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => {
            serve_http2(shared, *tls, via).await;
        }
        Tunnel::Tls(tls) => serve_http1(shared, *tls, via).await,
        Tunnel::Plain(io) => serve_http1(shared, io, via).await,
    }
}

/// One request inside a tunnel.
async fn handle_in_tunnel(
    shared: Arc<Shared>,
    via: Via,
    request: Request<Incoming>,
) -> Response<Reply> {
    let mut audit = start_tunnel_audit(&shared, &via);
    if request.method() == Method::CONNECT {
        audit.set_request("CONNECT", None, None);
        let refusal = if shared.log.closed() {
            Refusal::unrecorded()
        } else {
            Refusal::new(Rule::NestedConnect, "CONNECT inside a tunnel")
        };
        return refuse_connect(&refusal, audit);
    }
    proxy::handle(shared, &via, request, audit).await
}

/// Starts the audit lines of something in a tunnel.
fn start_tunnel_audit(shared: &Shared, via: &Via) -> RequestAudit {
    let mut audit = shared.start_audit();
    if let Via::Tunnel { to, .. } = via {
        audit.set_destination(&to.host, to.port);
    }
    audit
}

/// HTTP/1.1 inside a tunnel; it can become a WebSocket.
async fn serve_http1<S>(shared: Arc<Shared>, io: S, via: Via)
where
    S: AsyncRead + AsyncWrite + Peer + Unpin + Send + 'static,
{
    let io = StrictReader::new(io, shared.checks().clone(), shared.network.limits.begun_head);
    let (handler, open) = (shared.clone(), io.open_requests());
    let service = service_fn(move |request| {
        let (shared, via, open) = (handler.clone(), via.clone(), open.clone());
        async move {
            let response = handle_in_tunnel(shared, via, request).await;
            Ok::<_, Infallible>(tracked(open, response))
        }
    });
    let connection = http1_builder(&shared).serve_connection(TokioIo::new(io), service);
    run(&shared, connection.with_upgrades(), |c| c.graceful_shutdown()).await;
}

/// HTTP/2 inside a tunnel. The limits of the protocol are tight, because a guest could take memory
/// by asking for much and reading slowly.
async fn serve_http2(shared: Arc<Shared>, io: TlsStream<Prefixed>, via: Via) {
    let (handler, tunnel) = (shared.clone(), via.clone());
    let service = service_fn(move |request| {
        let (shared, via) = (handler.clone(), tunnel.clone());
        async move { Ok::<_, Infallible>(handle_in_tunnel(shared, via, request).await) }
    });
    let limits = &shared.network.limits;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(32 * 1024)
        .max_pending_accept_reset_streams(Some(32))
        .max_local_error_reset_streams(Some(64))
        .initial_stream_window_size(128 * 1024)
        .initial_connection_window_size(256 * 1024)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(limits.head / 2)
        .keep_alive_timeout(limits.head / 2);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    let broken = run(&shared, connection, |c| c.graceful_shutdown()).await;
    // What is not a request has no audit line of its own: record that there was something.
    if let Some(e) = broken.filter(|e| !is_lost(e)) {
        let mut audit = start_tunnel_audit(&shared, &via);
        let cause =
            std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
        audit.fail(&Refusal::new(
            Rule::Http2,
            format!("the connection broke the rules of HTTP/2: {cause}"),
        ));
    }
}

fn http1_builder(shared: &Shared) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(shared.network.limits.head)
        .max_buf_size(128 * 1024);
    builder
}

/// Runs a connection to its end, gracefully when the daemon ends.
async fn run<C>(
    shared: &Shared,
    connection: C,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
) -> Option<hyper::Error>
where
    C: Future<Output = hyper::Result<()>>,
{
    let cut_off = async { drop(shared.cut_off().await) };
    connection::serve(connection, graceful_shutdown, shared.ending.clone(), cut_off).await
}

/// Whether the guest only went away.
fn is_lost(e: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(e);
    while let Some(inner) = cause {
        if inner.downcast_ref::<io::Error>().is_some() {
            return true;
        }
        cause = inner.source();
    }
    e.is_timeout() || e.is_closed() || e.is_canceled()
}

/// An answer that its connection's reader knows of. It is the last one if the guest has closed its
/// sending side.
fn tracked(open: Arc<OpenRequests>, mut response: Response<Reply>) -> Response<TrackedReply> {
    if open.half_closed() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|reply| TrackedReply { reply, open })
}

/// A body that tells its connection's reader when it ends, in whatever way.
struct TrackedReply {
    reply: Reply,
    open: Arc<OpenRequests>,
}

impl Drop for TrackedReply {
    fn drop(&mut self) {
        self.open.answered();
    }
}

impl Body for TrackedReply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.reply).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}
