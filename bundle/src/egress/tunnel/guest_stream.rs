//! The guest's connection after CONNECT.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;

use crate::egress::http1::request_head::is_method;
use crate::egress::http1::strict_reader::{Peer, StrictReader};
use crate::egress::refusal::Refusal;
use crate::egress::request::authority::Authority;

/// First byte of a TLS handshake record.
pub const HANDSHAKE_RECORD: u8 = 0x16;

/// Longest method of a request, bytes.
const MAX_METHOD: usize = 32;

/// Fatal alert unrecognized_name, RFC 8446 section 6.
pub const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];

/// Takes the connection over from hyper after CONNECT, with the first bytes that the guest sends.
/// `None` when the guest went away.
pub async fn take_over(upgrade: OnUpgrade) -> Option<(UnixStream, BytesMut)> {
    let upgraded = upgrade.await.ok()?;
    // CONNECT is only answered on the socket.
    let parts = upgraded.downcast::<TokioIo<StrictReader<UnixStream>>>().ok()?;
    let (mut io, mut first) = parts.io.into_inner().into_parts();
    while first.is_empty() {
        if io.read_buf(&mut first).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    Some((io, first))
}

/// Whether `bytes` are the start of a request line of HTTP/1.
#[must_use]
pub fn begins_request(bytes: &[u8]) -> bool {
    let method = bytes.split(|b| *b == b' ').next().unwrap_or_default();
    (1..=MAX_METHOD).contains(&method.len()) && is_method(method)
}

/// The reason for [`crate::egress::refusal::Rule::NotTls`].
pub fn not_tls(to: &Authority) -> String {
    format!("what came after CONNECT {to} is not TLS; there are no raw tunnels")
}

/// Tells a client why its tunnel ends, as a TLS alert if its first byte began a TLS handshake.
pub async fn send_refusal(
    io: &mut (impl AsyncWrite + Unpin),
    refusal: &Refusal,
    first: Option<&u8>,
) {
    if first == Some(&HANDSHAKE_RECORD) {
        send_last(io, &UNRECOGNIZED_NAME).await;
    } else {
        send_last(io, refusal_text(refusal).as_bytes()).await;
    }
}

/// Sends `bytes` and closes. A guest that does not read misses them.
pub async fn send_last(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    let _ = io.write_all(bytes).await;
    let _ = io.shutdown().await;
}

fn refusal_text(refusal: &Refusal) -> String {
    let (status, code, body) = (refusal.rule.status(), refusal.rule.code(), refusal.body());
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nx-bottle-refused: {code}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// A connection from which the first bytes have been read already.
pub struct Prefixed {
    prefix: BytesMut,
    io: UnixStream,
}

impl Prefixed {
    /// Reads `prefix` before the rest of `io`.
    pub fn new(prefix: BytesMut, io: UnixStream) -> Self {
        Self { prefix, io }
    }
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
