//! Connections to upstreams: one pool a route.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bottle_policy::Route;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::Limits;
use super::authority::Authority;
use super::body::{Meter, Upload};
use super::refusal::{Checks, Refusal, Rule};
use super::resolve::Resolver;
use super::tls::provider;

/// What all routes share: lookup, the system's CAs, limits. No connection.
#[derive(Default)]
pub struct Network {
    /// Name lookup.
    pub resolver: Resolver,
    pub(super) roots: OnceLock<RootCertStore>,
    /// Deadlines.
    pub limits: Limits,
    /// Rules in force.
    pub checks: Checks,
    /// Coded bodies that are decoded at once: a decoder's window is megabytes.
    pub coded: Coded,
}

/// [`Network::coded`].
pub struct Coded(Arc<Semaphore>);

impl Default for Coded {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(64)))
    }
}

impl Coded {
    /// Waits for a place.
    pub async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.ok()
    }
}

impl Network {
    /// The system's CAs; read at the first call, some milliseconds.
    pub fn roots(&self) -> &RootCertStore {
        self.roots.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for e in &found.errors {
                tracing::debug!("system CAs: {e}");
            }
            let mut roots = RootCertStore::empty();
            let (good, _) = roots.add_parsable_certificates(found.certs);
            if good == 0 {
                tracing::warn!("the system has no CA certificates; set SSL_CERT_FILE");
            }
            roots
        })
    }
}

/// A route's `ca` holds no PEM certificate.
#[derive(Debug)]
pub struct NoCertificate;

/// The HTTP that a request is to be sent on in: the guest's own, so that what it relies on is
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 only where the upstream has nothing else.
    Http1,
    /// HTTP/2 where the upstream has it.
    Http2,
}

/// The connections of one route.
pub struct Upstream {
    http1: Client<Connector, Upload>,
    http2: Client<Connector, Upload>,
    link: Arc<Link>,
    network: Arc<Network>,
}

impl Upstream {
    /// Nothing is connected or read yet.
    ///
    /// # Errors
    /// `route.ca` holds no certificate.
    pub fn new(route: &Route, network: Arc<Network>) -> Result<Self, NoCertificate> {
        let mut cas = Vec::new();
        if let Some(pem) = &route.ca {
            for ca in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                cas.push(ca.map_err(|_| NoCertificate)?);
            }
            if cas.is_empty() {
                return Err(NoCertificate);
            }
        }
        let (tls, allow_private, connect) = (route.tls, route.allow_private, route.connect);
        let link = Arc::new(Link {
            tls,
            allow_private,
            connect,
            cas,
            config: OnceLock::new(),
            network: network.clone(),
        });
        let client = |protocol| {
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(network.limits.pool_idle)
                .pool_max_idle_per_host(64)
                .http1_max_buf_size(128 * 1024)
                .http2_initial_stream_window_size(128 * 1024)
                .http2_initial_connection_window_size(1024 * 1024)
                .http2_max_header_list_size(64 * 1024)
                .http2_max_send_buf_size(128 * 1024)
                .set_host(true) // in HTTP/1.1; nginx refuses a request that has it beside :authority
                .build(Connector { link: link.clone(), protocol })
        };
        Ok(Self {
            http1: client(Protocol::Http1),
            http2: client(Protocol::Http2),
            link: link.clone(),
            network: network.clone(),
        })
    }

    /// A connection without TLS of ours, for a tunnel that is not intercepted.
    ///
    /// # Errors
    /// Whatever kept it from being made.
    pub async fn dial(&self, to: &Authority) -> Result<TcpStream, Refusal> {
        let limit = self.network.limits.connect;
        let slow = || {
            Refusal::new(
                Rule::ConnectTimeout,
                format!("{to} could not be reached in {} s", limit.as_secs()),
            )
        };
        timeout(limit, self.link.dial(to)).await.map_err(|_| slow())?
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// # Errors
    /// Whatever kept the response from coming.
    pub async fn send(
        &self,
        request: Request<Upload>,
        protocol: Protocol,
        meter: &Meter,
    ) -> Result<Response<Incoming>, Refusal> {
        let wait = self.network.limits.response_head;
        let client = if protocol == Protocol::Http2 { &self.http2 } else { &self.http1 };
        let mut answer = std::pin::pin!(client.request(request));
        loop {
            // The clock starts again with every byte that goes up: a long upload is no slow answer.
            let deadline = meter.touched() + wait;
            match timeout_at(deadline, &mut answer).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(e)) => return Err(explain(&e, meter)),
                Err(_) if meter.touched() + wait > Instant::now() => {}
                Err(_) => {
                    return Err(Refusal::new(
                        Rule::UpstreamTimeout,
                        format!("the upstream gave no answer for {} s", wait.as_secs()),
                    ));
                }
            }
        }
    }
}

/// A connection that could not be made; travels through hyper's error.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.reason)]
struct Unconnected(Refusal);

fn explain(e: &ClientError, meter: &Meter) -> Refusal {
    if let Some(refusal) = meter.upload_refusal() {
        return refusal;
    }
    let mut cause = e.source();
    while let Some(inner) = cause {
        if let Some(Unconnected(refusal)) = inner.downcast_ref() {
            return refusal.clone();
        }
        cause = inner.source();
    }
    // hyper's own texts name no header or body.
    let inner = e.source().map(|s| format!(": {s}")).unwrap_or_default();
    Refusal::new(Rule::Upstream, format!("the upstream did not answer in HTTP{inner}"))
}

struct Link {
    tls: bool,
    allow_private: bool,
    connect: Option<SocketAddr>,
    cas: Vec<CertificateDer<'static>>,
    config: OnceLock<[Arc<ClientConfig>; 3]>,
    network: Arc<Network>,
}

impl Link {
    fn config(&self, alpn: Alpn) -> Result<Arc<ClientConfig>, Refusal> {
        let made = self.configs()?;
        Ok(match alpn {
            Alpn::Http1 => made[0].clone(),
            Alpn::Http2 => made[1].clone(),
            Alpn::Either => made[2].clone(),
        })
    }

    fn configs(&self) -> Result<&[Arc<ClientConfig>; 3], Refusal> {
        if let Some(made) = self.config.get() {
            return Ok(made);
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
        Ok(self.config.get_or_init(|| {
            [offering(&[b"http/1.1"]), offering(&[b"h2"]), offering(&[b"h2", b"http/1.1"])]
        }))
    }

    async fn dial(&self, to: &Authority) -> Result<TcpStream, Refusal> {
        let addresses = match self.connect {
            Some(address) => vec![address],
            None => {
                self.network
                    .resolver
                    .addresses(to, self.allow_private, &self.network.checks)
                    .await?
            }
        };
        let tcp = dial(&addresses, to, self.network.limits.connect).await?;
        let _ = tcp.set_nodelay(true); // a slower connection is no reason to refuse
        Ok(tcp)
    }

    async fn open(&self, to: &Authority, protocol: Protocol) -> Result<Stream, Refusal> {
        if !self.tls {
            return Ok(Stream::Plain(self.dial(to).await?));
        }
        let first = if protocol == Protocol::Http2 { Alpn::Either } else { Alpn::Http1 };
        match self.handshake(to, first).await {
            // The few servers that speak nothing but HTTP/2.
            Err(Handshake::NoProtocol) if first == Alpn::Http1 => {
                self.handshake(to, Alpn::Http2).await.map_err(Into::into)
            }
            other => other.map_err(Into::into),
        }
    }

    async fn handshake(&self, to: &Authority, alpn: Alpn) -> Result<Stream, Handshake> {
        let bad = |e: &dyn std::fmt::Display| {
            Refusal::new(Rule::UpstreamTls, format!("TLS with {to}: {e}"))
        };
        let name = ServerName::try_from(to.host.clone()).map_err(|e| bad(&e))?;
        let connector = TlsConnector::from(self.config(alpn)?);
        let tcp = self.dial(to).await?;
        match connector.connect(name, tcp).await {
            Ok(tls) => Ok(Stream::Tls(Box::new(tls))),
            Err(e) if is_no_protocol(&e) => Err(Handshake::NoProtocol),
            Err(e) => Err(bad(&e).into()),
        }
    }
}

/// What is offered to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alpn {
    Http1,
    Http2,
    Either,
}

enum Handshake {
    NoProtocol,
    Other(Refusal),
}

impl From<Refusal> for Handshake {
    fn from(refusal: Refusal) -> Self {
        Self::Other(refusal)
    }
}

impl From<Handshake> for Refusal {
    fn from(e: Handshake) -> Self {
        match e {
            Handshake::NoProtocol => {
                Self::new(Rule::UpstreamTls, "the upstream speaks neither HTTP/1.1 nor HTTP/2")
            }
            Handshake::Other(refusal) => refusal,
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

/// The first address that accepts, tried in order; no single one may use up the time of all.
async fn dial(
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

#[derive(Clone)]
struct Connector {
    link: Arc<Link>,
    protocol: Protocol,
}

impl tower_service::Service<Uri> for Connector {
    type Response = Conn;
    type Error = Unconnected;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, Unconnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unconnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (link, protocol) = (self.link.clone(), self.protocol);
        Box::pin(async move {
            let text = uri.authority().map_or("", |a| a.as_str());
            let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
            let to = Authority::parse(text, Some(default)).map_err(Unconnected)?;
            let limit = link.network.limits.connect;
            let slow = || {
                Unconnected(Refusal::new(
                    Rule::ConnectTimeout,
                    format!("{to} could not be reached in {} s", limit.as_secs()),
                ))
            };
            let stream = timeout(limit, link.open(&to, protocol))
                .await
                .map_err(|_| slow())?
                .map_err(Unconnected)?;
            Ok(Conn(TokioIo::new(stream)))
        })
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

macro_rules! either {
    ($self:ident, $s:ident => $e:expr) => {
        match $self.get_mut() {
            Stream::Plain($s) => $e,
            Stream::Tls($s) => $e,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
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

/// A connection as hyper's pool wants it.
struct Conn(TokioIo<Stream>);

impl Connection for Conn {
    fn connected(&self) -> Connected {
        let negotiated = match self.0.inner() {
            Stream::Tls(tls) => tls.get_ref().1.alpn_protocol(),
            Stream::Plain(_) => None,
        };
        if negotiated == Some(b"h2") { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl hyper::rt::Read for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
