//! Connections: accepted up to a number, served, and let finish at the end, for a moment.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};

use super::proxy::{Proxy, Via};
use super::wire::Wire;

/// For what is cut off to be dropped, which writes its audit line.
const CUT: Duration = Duration::from_millis(150);

/// Accepts until the end is called, then lets what is under way finish, for a while, and cuts off the rest.
///
/// # Errors
/// The listener fails for good.
pub async fn serve(proxy: Arc<Proxy>, listener: UnixListener) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(proxy.network.limits.connections));
    let mut ending = proxy.ending.clone();
    loop {
        // A full house is not refused but waits: the guest's connect(2) succeeds as soon as there is room.
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

async fn accept(listener: &UnixListener, slots: &Arc<Semaphore>) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    Ok((listener.accept().await?.0, slot))
}

fn is_fatal(e: &io::Error) -> bool {
    use nix::errno::Errno;
    e.raw_os_error().is_some_and(|n| matches!(Errno::from_raw(n), Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK))
}

fn builder(proxy: &Proxy) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(proxy.network.limits.head).max_buf_size(128 * 1024);
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
        if let Err(e) = done {
            tracing::debug!("connection: {e}");
        }
    }};
}

/// HTTP at the proxy's socket, CONNECT included.
async fn serve_socket(proxy: Arc<Proxy>, io: Wire<UnixStream>, slot: Arc<OwnedSemaphorePermit>) {
    let handler = proxy.clone();
    let service = service_fn(move |request| {
        let (proxy, via) = (handler.clone(), Via::Socket(slot.clone()));
        async move { Ok::<_, Infallible>(proxy.handle(via, request).await) }
    });
    run!(proxy, builder(&proxy).serve_connection(TokioIo::new(io), service).with_upgrades());
}

/// HTTP inside a tunnel; nothing can be upgraded there.
pub async fn serve_http<S>(proxy: Arc<Proxy>, io: Wire<S>, via: Via)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handler = proxy.clone();
    let service = service_fn(move |request| {
        let (proxy, via) = (handler.clone(), via.clone());
        async move { Ok::<_, Infallible>(proxy.handle(via, request).await) }
    });
    run!(proxy, builder(&proxy).serve_connection(TokioIo::new(io), service));
}
