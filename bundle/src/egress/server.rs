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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};
use tokio_rustls::server::TlsStream;

use super::body::Reply;
use super::connect::Prefixed;
use super::proxy::{Proxy, Via};
use super::refusal::{Refusal, Rule};
use super::ticket::Ticket;
use super::wire::{Open, Wire};

/// For what is cut off to be dropped, which writes its audit line.
const CUT: Duration = Duration::from_millis(150);

/// Accepts until the end is called, then lets what is under way finish, for a while, and cuts off
/// the rest.
///
/// # Errors
/// The listener fails for good.
pub async fn serve(proxy: Arc<Proxy>, listener: UnixListener) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(proxy.network.limits.connections));
    let mut ending = proxy.ending.clone();
    loop {
        // A full house is not refused but waits: the guest's connect(2) succeeds as soon as there
        // is room.
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            _ = ending.wait_for(|end| *end) => break,
        };
        let (io, slot) = match accepted {
            Ok(it) => it,
            Err(e) if is_fatal(&e) => return Err(e),
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(20)).await; // out of descriptors; a pause, not a hope
                continue;
            }
        };
        let (proxy, tasks) = (proxy.clone(), proxy.tasks.clone());
        tasks.spawn(async move {
            let wire = Wire::new(io, proxy.guards().clone());
            serve_socket(proxy, wire, Arc::new(slot)).await;
        });
    }
    drop(listener);
    proxy.tasks.close();
    if timeout(proxy.network.limits.drain, proxy.tasks.wait()).await.is_err() {
        tracing::warn!("{} connections are cut off at the end", proxy.tasks.len());
        proxy.cut.send_replace(true);
        let _ = timeout(CUT, proxy.tasks.wait()).await; // who is late is dropped with the runtime
    }
    Ok(())
}

async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    Ok((listener.accept().await?.0, slot))
}

fn is_fatal(e: &io::Error) -> bool {
    use nix::errno::Errno;
    e.raw_os_error().is_some_and(|n| {
        matches!(Errno::from_raw(n), Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK)
    })
}

fn builder(proxy: &Proxy) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(proxy.network.limits.head)
        .max_buf_size(128 * 1024);
    builder
}

macro_rules! run {
    ($proxy:ident, $conn:expr) => {{
        let mut conn = std::pin::pin!($conn);
        let mut ending = $proxy.ending.clone();
        let ended = tokio::select! {
            done = conn.as_mut() => Some(done),
            _ = ending.wait_for(|end| *end) => None,
        };
        let done = match ended {
            Some(done) => done,
            None => {
                conn.as_mut().graceful_shutdown();
                let mut cut = $proxy.cut.subscribe();
                tokio::select! {
                    done = conn.as_mut() => done,
                    _ = cut.wait_for(|cut| *cut) => Ok(()),
                }
            }
        };
        if let Err(e) = &done {
            tracing::debug!("connection: {e}");
        }
        done.err()
    }};
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
    run!(proxy, builder(&proxy).serve_connection(TokioIo::new(io), service).with_upgrades());
}

/// HTTP/1.1 inside a tunnel; it can become a WebSocket.
pub async fn serve_http(proxy: Arc<Proxy>, io: Wire<TlsStream<Prefixed>>, via: Via) {
    let (handler, open) = (proxy.clone(), io.open());
    let service = service_fn(move |request| {
        let (proxy, via, open) = (handler.clone(), via.clone(), open.clone());
        async move { Ok::<_, Infallible>(answer(open, proxy.handle(via, request).await)) }
    });
    run!(proxy, builder(&proxy).serve_connection(TokioIo::new(io), service).with_upgrades());
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
    let broken = run!(proxy, builder.serve_connection(TokioIo::new(io), service));
    // What is no request has no line of its own: say that there was something.
    if let Some(e) = broken.filter(|e| !is_lost(e)) {
        let mut ticket =
            Ticket::new(proxy.log.clone(), proxy.routes.now().secrets(), proxy.cut.subscribe());
        if let Via::Tunnel(to) = &to {
            ticket.to(to);
        }
        ticket.fail(&Refusal::new(
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
