//! What follows CONNECT: TLS for the host that was named, HTTP inside it, and nothing else.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::audit::RequestAudit;
use super::authority::Authority;
use super::proxy::{Proxy, Via};
use super::refusal::{Refusal, Rule};
use super::server::{serve_http, serve_http2};
use super::wire::{Peer, Wire};

/// First byte of a TLS handshake record.
const HANDSHAKE: u8 = 0x16;

/// Fatal alert unrecognized_name, RFC 8446 section 6.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];

/// Runs one tunnel to its end. `audit` is used up only if the tunnel is refused.
pub async fn tunnel(proxy: Arc<Proxy>, upgrade: OnUpgrade, to: Authority, mut audit: RequestAudit) {
    let mut ending = proxy.ending.clone();
    let opened = tokio::select! {
        opened = timeout(proxy.network.limits.handshake, open(&proxy, upgrade, &to)) => opened.unwrap_or(Ok(None)),
        _ = ending.wait_for(|end| *end) => Ok(None),
    };
    match opened {
        Ok(Some(tls)) => {
            audit.discard();
            let via = Via::Tunnel(Arc::new(to));
            if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                serve_http2(proxy, tls, via).await;
            } else {
                serve_http(proxy.clone(), Wire::new(tls, proxy.checks().clone()), via).await;
            }
        }
        Ok(None) => audit.discard(), // nothing was asked
        Err(refusal) => audit.fail(&refusal),
    }
}

/// Takes the connection over and does the guest's handshake. `None` when the guest went away.
async fn open(
    proxy: &Arc<Proxy>,
    upgrade: OnUpgrade,
    to: &Authority,
) -> Result<Option<TlsStream<Prefixed>>, Refusal> {
    let Some((mut io, first)) = take_over(upgrade).await else { return Ok(None) };
    let tls = first.first() == Some(&HANDSHAKE);
    if let Err(refusal) = proxy.checks().refuse_if(!tls, Rule::NotTls, || not_tls(to)) {
        say_refusal(&mut io, &refusal, first.first()).await;
        return Err(refusal);
    }
    let io = Prefixed { prefix: first, io };
    #[cfg(test)]
    if !tls {
        return super::attacks::tunnel_raw(proxy, io, to).await;
    }
    let start = match LazyConfigAcceptor::new(Acceptor::default(), io).await {
        Ok(start) => start,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(_) => return Err(Refusal::new(Rule::NotTls, not_tls(to))),
    };
    if let Err(refusal) = check_name(proxy, &start, to) {
        let mut io = start.io;
        say(&mut io, &UNRECOGNIZED_NAME).await;
        return Err(refusal);
    }
    let config =
        proxy.leaves.config(to).map_err(|e| Refusal::new(Rule::Authority, e.to_string()))?;
    // A guest that does not trust the bottle's CA breaks off here; it asked for nothing.
    match start.into_stream(config).await {
        Ok(stream) => Ok(Some(stream)),
        Err(e) => {
            tracing::debug!("handshake for {to}: {e}");
            Ok(None)
        }
    }
}

/// The connection behind a CONNECT, and its first bytes. `None` when the guest went away.
pub async fn take_over(upgrade: OnUpgrade) -> Option<(UnixStream, BytesMut)> {
    let upgraded = upgrade.await.ok()?;
    // CONNECT is only answered at the socket.
    let parts = upgraded.downcast::<TokioIo<Wire<UnixStream>>>().ok()?;
    let (mut io, mut first) = parts.io.into_inner().into_parts();
    while first.is_empty() {
        if io.read_buf(&mut first).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    Some((io, first))
}

/// Why a tunnel is not one.
pub fn not_tls(to: &Authority) -> String {
    format!("what came after CONNECT {to} is not TLS; there are no raw tunnels")
}

/// Tells a client why its tunnel ends: in TLS's words, if it began in them.
pub async fn say_refusal(
    io: &mut (impl AsyncWrite + Unpin),
    refusal: &Refusal,
    first: Option<&u8>,
) {
    if first == Some(&HANDSHAKE) {
        say(io, &UNRECOGNIZED_NAME).await;
    } else {
        say(io, refusal_text(refusal).as_bytes()).await;
    }
}

/// The server name must be the host of CONNECT. Only an address has none.
fn check_name(
    proxy: &Proxy,
    start: &StartHandshake<Prefixed>,
    to: &Authority,
) -> Result<(), Refusal> {
    let hello = start.client_hello();
    let name = hello.server_name().map(str::to_ascii_lowercase);
    let checks = proxy.checks();
    checks.refuse_if(name.is_none() && to.ip().is_none(), Rule::NoSni, || {
        format!("TLS to {to} without a server name")
    })?;
    let other = name.as_ref().is_some_and(|n| *n != to.host);
    checks.refuse_if(other, Rule::SniMismatch, || {
        format!("CONNECT was for {}, TLS is for {}", to.host, name.unwrap_or_default())
    })
}

/// A last word before closing; who does not listen misses it.
async fn say(io: &mut (impl AsyncWrite + Unpin), text: &[u8]) {
    let _ = io.write_all(text).await;
    let _ = io.shutdown().await;
}

fn refusal_text(refusal: &Refusal) -> String {
    let (status, code, body) = (refusal.rule.status(), refusal.rule.code(), refusal.body());
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nx-bottle-refused: {code}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// A connection of which some bytes were read already.
pub struct Prefixed {
    prefix: BytesMut,
    io: UnixStream,
}

impl Peer for Prefixed {
    fn is_gone(&self) -> bool {
        self.io.is_gone()
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
