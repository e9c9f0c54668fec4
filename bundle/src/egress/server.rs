//! Connections: accepted up to a number, served, and let finish at the end, for a moment.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Duration;
use tokio_rustls::server::TlsStream;

use super::audit::RequestAudit;
use super::body::Reply;
use super::connect::Prefixed;
use super::proxy::{Proxy, Via};
use super::refusal::{Refusal, Rule};
use super::wire::{Open, Wire};
use crate::daemon::accept::{accept_until, drain};
use crate::daemon::connection;

/// For what is cut off to be dropped, which writes its audit line.
const CUT: Duration = Duration::from_millis(150);

/// Serves connections until the daemon has to end, then lets those that are open finish for a
/// while, and cuts off the rest.
///
/// # Errors
/// The listener is broken for good.
pub async fn serve(proxy: Arc<Proxy>, listener: UnixListener) -> io::Result<()> {
    let limits = &proxy.network.limits;
    accept_until(listener, limits.connections, proxy.ending.clone(), |io, slot| {
        let (proxy, tasks) = (proxy.clone(), proxy.tasks.clone());
        tasks.spawn(async move {
            let wire = Wire::new(io, proxy.checks().clone());
            serve_socket(proxy, wire, Arc::new(slot)).await;
        });
    })
    .await?;
    let open = drain(&proxy.tasks, limits.drain).await;
    if open > 0 {
        tracing::warn!("{open} connections are cut off at the end");
        proxy.cut.send_replace(true);
        drain(&proxy.tasks, CUT).await; // what is left is dropped with the runtime
    }
    Ok(())
}

fn builder(proxy: &Proxy) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(proxy.network.limits.head)
        .max_buf_size(128 * 1024);
    builder
}

/// Completes when connections that are still open at the end have had their time.
async fn cut_off(proxy: &Proxy) {
    let _ = proxy.cut.subscribe().wait_for(|cut| *cut).await;
}

/// A guest that sends no more gets its answer, and then the end.
fn answer(open: Arc<Open>, mut response: Response<Reply>) -> Response<Answer> {
    if open.half_closed() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|reply| Answer { reply, open })
}

/// An answer that tells its connection when it ends, whichever way.
struct Answer {
    reply: Reply,
    open: Arc<Open>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.open.answered();
    }
}

impl Body for Answer {
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

/// HTTP at the proxy's socket, CONNECT included.
async fn serve_socket(proxy: Arc<Proxy>, io: Wire<UnixStream>, slot: Arc<OwnedSemaphorePermit>) {
    let (handler, open) = (proxy.clone(), io.open());
    let service = service_fn(move |request| {
        let (proxy, via, open) = (handler.clone(), Via::Socket(slot.clone()), open.clone());
        async move { Ok::<_, Infallible>(answer(open, proxy.handle(via, request).await)) }
    });
    let connection = builder(&proxy).serve_connection(TokioIo::new(io), service).with_upgrades();
    let ending = proxy.ending.clone();
    connection::serve(connection, |c| c.graceful_shutdown(), ending, cut_off(&proxy)).await;
}

/// HTTP/1.1 inside a tunnel; it can become a WebSocket.
pub async fn serve_http(proxy: Arc<Proxy>, io: Wire<TlsStream<Prefixed>>, via: Via) {
    let (handler, open) = (proxy.clone(), io.open());
    let service = service_fn(move |request| {
        let (proxy, via, open) = (handler.clone(), via.clone(), open.clone());
        async move { Ok::<_, Infallible>(answer(open, proxy.handle(via, request).await)) }
    });
    let connection = builder(&proxy).serve_connection(TokioIo::new(io), service).with_upgrades();
    let ending = proxy.ending.clone();
    connection::serve(connection, |c| c.graceful_shutdown(), ending, cut_off(&proxy)).await;
}

/// HTTP/2 inside a tunnel. The protocol's own limits are tight: a guest gets memory by asking for
/// much, slowly.
pub async fn serve_http2(proxy: Arc<Proxy>, io: TlsStream<Prefixed>, via: Via) {
    let handler = proxy.clone();
    let to = via.clone();
    let service = service_fn(move |request| {
        let (proxy, via) = (handler.clone(), via.clone());
        async move { Ok::<_, Infallible>(proxy.handle(via, request).await) }
    });
    let limits = &proxy.network.limits;
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
    let ending = proxy.ending.clone();
    let broken =
        connection::serve(connection, |c| c.graceful_shutdown(), ending, cut_off(&proxy)).await;
    // What is no request has no line of its own: say that there was something.
    if let Some(e) = broken.filter(|e| !is_lost(e)) {
        let mut audit = RequestAudit::start(
            proxy.log.clone(),
            proxy.routes.now().secrets(),
            proxy.cut.subscribe(),
        );
        if let Via::Tunnel(to) = &to {
            audit.set_destination(to);
        }
        audit.fail(&Refusal::new(
            Rule::Http2,
            format!("the connection broke the rules of HTTP/2: {}", cause(&e)),
        ));
    }
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

fn cause(e: &hyper::Error) -> String {
    std::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string)
}
