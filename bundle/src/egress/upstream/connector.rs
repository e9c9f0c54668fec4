//! Connections to an upstream: address, TCP, TLS and the choice of HTTP version.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bottle_policy::Route;
use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::network::Network;
use crate::egress::refusal::{Refusal, Rule};
use crate::egress::request::authority::Authority;
use crate::egress::tls::provider;

/// The version of HTTP in which a request is sent on: the guest's own, so that it gets the features
/// that it relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/2 if the upstream has nothing else.
    Http1,
    /// HTTP/2 if the upstream has it.
    Http2,
}

/// Why a connection could not be made. It passes through hyper's error.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.reason)]
pub struct ConnectError(pub Refusal);

/// Makes the connections of one route.
pub struct Dialer {
    tls: bool,
    allow_private: bool,
    connect: Option<SocketAddr>,
    cas: Vec<CertificateDer<'static>>,
    /// TLS configurations for [`Alpn::Http1`], [`Alpn::Http2`] and [`Alpn::Either`], made when
    /// first needed.
    configs: OnceLock<[Arc<ClientConfig>; 3]>,
    network: Arc<Network>,
}

impl Dialer {
    /// Trusts the system's CAs and `cas`.
    pub fn new(route: &Route, cas: Vec<CertificateDer<'static>>, network: Arc<Network>) -> Self {
        Self {
            tls: route.tls,
            allow_private: route.allow_private,
            connect: route.connect,
            cas,
            configs: OnceLock::new(),
            network,
        }
    }

    fn config(&self, alpn: Alpn) -> Result<Arc<ClientConfig>, Refusal> {
        let configs = self.configs()?;
        Ok(match alpn {
            Alpn::Http1 => configs[0].clone(),
            Alpn::Http2 => configs[1].clone(),
            Alpn::Either => configs[2].clone(),
        })
    }

    fn configs(&self) -> Result<&[Arc<ClientConfig>; 3], Refusal> {
        if let Some(configs) = self.configs.get() {
            return Ok(configs);
        }
        let failed = |e: rustls::Error| Refusal::new(Rule::UpstreamTls, e.to_string());
        let mut roots = self.network.roots().clone();
        for ca in &self.cas {
            roots.add(ca.clone()).map_err(failed)?;
        }
        let plain = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let offering = |protocols: &[&[u8]]| {
            let mut config = plain.clone();
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Arc::new(config)
        };
        Ok(self.configs.get_or_init(|| {
            [offering(&[b"http/1.1"]), offering(&[b"h2"]), offering(&[b"h2", b"http/1.1"])]
        }))
    }

    /// Connects to a permitted address of `to`.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn dial(&self, to: &Authority) -> Result<TcpStream, Refusal> {
        let addresses = match self.connect {
            Some(address) => vec![address],
            None => {
                self.network
                    .resolver
                    .addresses(to, self.allow_private, &self.network.checks)
                    .await?
            }
        };
        let tcp = connect_to_any(&addresses, to, self.network.limits.connect).await?;
        let _ = tcp.set_nodelay(true); // without it the connection is only slower
        Ok(tcp)
    }

    async fn connect(&self, to: &Authority, protocol: Protocol) -> Result<UpstreamStream, Refusal> {
        if !self.tls {
            return Ok(UpstreamStream::Plain(self.dial(to).await?));
        }
        let first = if protocol == Protocol::Http2 { Alpn::Either } else { Alpn::Http1 };
        match self.handshake(to, first).await {
            // A few servers speak nothing but HTTP/2.
            Err(HandshakeError::NoProtocol) if first == Alpn::Http1 => {
                self.handshake(to, Alpn::Http2).await.map_err(Into::into)
            }
            other => other.map_err(Into::into),
        }
    }

    async fn handshake(
        &self,
        to: &Authority,
        alpn: Alpn,
    ) -> Result<UpstreamStream, HandshakeError> {
        let bad = |e: &dyn std::fmt::Display| {
            Refusal::new(Rule::UpstreamTls, format!("TLS with {to}: {e}"))
        };
        let name = ServerName::try_from(to.host.clone()).map_err(|e| bad(&e))?;
        let connector = TlsConnector::from(self.config(alpn)?);
        let tcp = self.dial(to).await?;
        match connector.connect(name, tcp).await {
            Ok(tls) => Ok(UpstreamStream::Tls(Box::new(tls))),
            Err(e) if is_no_protocol(&e) => Err(HandshakeError::NoProtocol),
            Err(e) => Err(bad(&e).into()),
        }
    }
}

/// The HTTP versions that are offered to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alpn {
    Http1,
    Http2,
    Either,
}

enum HandshakeError {
    NoProtocol,
    Other(Refusal),
}

impl From<Refusal> for HandshakeError {
    fn from(refusal: Refusal) -> Self {
        Self::Other(refusal)
    }
}

impl From<HandshakeError> for Refusal {
    fn from(e: HandshakeError) -> Self {
        match e {
            HandshakeError::NoProtocol => {
                Self::new(Rule::UpstreamTls, "the upstream speaks neither HTTP/1.1 nor HTTP/2")
            }
            HandshakeError::Other(refusal) => refusal,
        }
    }
}

fn is_no_protocol(e: &io::Error) -> bool {
    let tls = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(
        tls,
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol))
    )
}

/// Connects to the first of `addresses` that accepts. No single one may use up all of `limit`.
async fn connect_to_any(
    addresses: &[SocketAddr],
    to: &Authority,
    limit: Duration,
) -> Result<TcpStream, Refusal> {
    let share = (limit / 2).max(limit / u32::try_from(addresses.len().max(1)).unwrap_or(1));
    let mut last = Refusal::new(Rule::Connect, format!("{to} has no address"));
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(e)) => {
                last = Refusal::new(Rule::Connect, format!("cannot connect to {to}: {e}"))
            }
            Err(_) => {
                last = Refusal::new(
                    Rule::ConnectTimeout,
                    format!("{to} does not accept connections in time"),
                )
            }
        }
    }
    Err(last)
}

/// Makes connections for hyper's pool.
#[derive(Clone)]
pub struct Connector {
    /// The route's dialer.
    pub dialer: Arc<Dialer>,
    /// The HTTP version to ask for.
    pub protocol: Protocol,
}

impl tower_service::Service<Uri> for Connector {
    type Response = PooledConnection;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<PooledConnection, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (dialer, protocol) = (self.dialer.clone(), self.protocol);
        Box::pin(async move {
            let text = uri.authority().map_or("", |a| a.as_str());
            let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
            let to = Authority::parse(text, Some(default)).map_err(ConnectError)?;
            let limit = dialer.network.limits.connect;
            let slow = || {
                ConnectError(Refusal::new(
                    Rule::ConnectTimeout,
                    format!("{to} could not be reached in {} s", limit.as_secs()),
                ))
            };
            let stream = timeout(limit, dialer.connect(&to, protocol))
                .await
                .map_err(|_| slow())?
                .map_err(ConnectError)?;
            Ok(PooledConnection { io: TokioIo::new(stream), deaf: false })
        })
    }
}

enum UpstreamStream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

macro_rules! either {
    ($self:ident, $s:ident => $e:expr) => {
        match $self.get_mut() {
            UpstreamStream::Plain($s) => $e,
            UpstreamStream::Tls($s) => $e,
        }
    };
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}

/// A connection in the shape that hyper's pool needs.
pub struct PooledConnection {
    io: TokioIo<UpstreamStream>,
    /// The upstream takes no more bytes. An HTTP/1.1 server that answers early closes the connection
    /// while the request is still being sent. What is left of the request is then thrown away, because
    /// hyper would not read the answer after an error in writing.
    deaf: bool,
}

impl PooledConnection {
    /// The outcome of writing `len` bytes: all of them, if the upstream is gone.
    fn written(&mut self, outcome: Poll<io::Result<usize>>, len: usize) -> Poll<io::Result<usize>> {
        let gone = |e: &io::Error| {
            matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
        };
        match outcome {
            Poll::Ready(Err(e)) if gone(&e) => {
                self.deaf = true;
                Poll::Ready(Ok(len))
            }
            outcome => outcome,
        }
    }
}

impl Connection for PooledConnection {
    fn connected(&self) -> Connected {
        let negotiated = match self.io.inner() {
            UpstreamStream::Tls(tls) => tls.get_ref().1.alpn_protocol(),
            UpstreamStream::Plain(_) => None,
        };
        if negotiated == Some(b"h2") { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl hyper::rt::Read for PooledConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for PooledConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        if me.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = Pin::new(&mut me.io).poll_write(cx, buf);
        me.written(outcome, buf.len())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.deaf {
            return Poll::Ready(Ok(()));
        }
        let outcome = Pin::new(&mut me.io).poll_flush(cx).map_ok(|()| 0);
        me.written(outcome, 0).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
