//! The load: connections that ask, and how long each answer took.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::payload::Payload;
use super::upstream::{HOST, TOKEN_CAME};

/// A stream of bytes in both directions.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Tls = TlsStream<Box<dyn Io>>;

/// How the upstream is reached.
#[derive(Clone)]
pub enum Way {
    /// Without a proxy.
    Direct(SocketAddr),
    /// Through the daemon at this socket.
    Proxy(PathBuf),
}

/// Makes connections to the upstream. TLS sessions are not resumed: each handshake is a whole one.
#[derive(Clone)]
pub struct Client {
    way: Way,
    http1: TlsConnector,
    http2: TlsConnector,
}

/// What a request was answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Whether the upstream says that the token came.
    pub with_token: bool,
    /// Bytes of its body.
    pub body: u64,
}

impl Client {
    /// One that trusts the certificates `roots`, PEM.
    pub fn new(way: Way, roots: &[&str]) -> Result<Self, String> {
        let mut store = rustls::RootCertStore::empty();
        for pem in roots {
            let cert = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
            store.add(cert).map_err(|e| e.to_string())?;
        }
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        let offering = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        Ok(Self { way, http1: offering(b"http/1.1"), http2: offering(b"h2") })
    }

    async fn tls(&self, connector: &TlsConnector) -> io::Result<Tls> {
        let io: Box<dyn Io> = match &self.way {
            Way::Direct(address) => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Box::new(tcp)
            }
            Way::Proxy(socket) => {
                let mut tunnel = UnixStream::connect(socket).await?;
                tunnel
                    .write_all(
                        format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n")
                            .as_bytes(),
                    )
                    .await?;
                // Nothing comes behind this head before the client has said something.
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if tunnel.read_buf(&mut head).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                if !head.starts_with(b"HTTP/1.1 200") {
                    return Err(io::Error::other(format!(
                        "CONNECT: {}",
                        String::from_utf8_lossy(&head)
                    )));
                }
                Box::new(tunnel)
            }
        };
        let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
        connector.connect(name, io).await
    }

    /// A connection of HTTP/1.1.
    pub async fn http1(&self) -> Result<Http1, String> {
        let tls = self.tls(&self.http1).await.map_err(|e| e.to_string())?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(Http1(sender))
    }

    async fn http2(&self) -> Result<http2::SendRequest<Payload>, String> {
        let tls = self.tls(&self.http2).await.map_err(|e| e.to_string())?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("no HTTP/2".to_owned());
        }
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// A connection of HTTP/1.1; it ends when this is dropped.
pub struct Http1(http1::SendRequest<Payload>);

impl Http1 {
    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: Request<Payload>) -> Result<Answer, String> {
        self.0.ready().await.map_err(|e| e.to_string())?;
        let response = self.0.send_request(request).await.map_err(|e| e.to_string())?;
        let (status, with_token) = (response.status(), response.headers().contains_key(TOKEN_CAME));
        Ok(Answer { status, with_token, body: length(response.into_body()).await? })
    }

    /// As [`Self::ask`], for an answer that has to be 200.
    pub async fn expect(&mut self, request: Request<Payload>) -> Result<Answer, String> {
        let answer = self.ask(request).await?;
        if answer.status == StatusCode::OK { Ok(answer) } else { Err(answer.status.to_string()) }
    }
}

/// Reads a body to its end and throws it away; its bytes.
async fn length(mut body: hyper::body::Incoming) -> Result<u64, String> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.map_err(|e| e.to_string())?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Load {
    /// Time of each answer, µs.
    pub micros: Vec<f64>,
    /// All of it, seconds.
    pub seconds: f64,
}

impl Load {
    /// Answers in a second.
    pub fn rate(&self) -> f64 {
        self.micros.len() as f64 / self.seconds
    }

    /// Time in which this part of all answers came, ms.
    pub fn percentile(&mut self, part: f64) -> f64 {
        self.micros.sort_by(f64::total_cmp);
        let at = (self.micros.len() as f64 * part) as usize;
        self.micros.get(at.min(self.micros.len().saturating_sub(1))).map_or(0.0, |us| us / 1e3)
    }

    async fn of(
        mut all: JoinSet<Result<Vec<f64>, String>>,
        began: Instant,
    ) -> Result<Self, String> {
        let mut micros = Vec::new();
        while let Some(done) = all.join_next().await {
            micros.append(&mut done.map_err(|e| e.to_string())??);
        }
        Ok(Self { micros, seconds: began.elapsed().as_secs_f64() })
    }
}

/// `n` connections, each of which has had one answer.
pub async fn open(
    client: &Client,
    n: usize,
    request: &Request<Payload>,
) -> Result<Vec<Http1>, String> {
    let mut all = Vec::new();
    for chunk in 0..n.div_ceil(16) {
        let mut some = JoinSet::new();
        for _ in chunk * 16..n.min(chunk * 16 + 16) {
            let (client, request) = (client.clone(), request.clone());
            some.spawn(async move {
                let mut connection = client.http1().await?;
                connection.expect(request).await.map(|_| connection)
            });
        }
        while let Some(done) = some.join_next().await {
            all.push(
                done.map_err(|e| e.to_string())?
                    .map_err(|e: String| format!("connection {}: {e}", all.len()))?,
            );
        }
    }
    Ok(all)
}

/// Each connection asks again and again, for `span`; with `pause`, not before that has passed since
/// the last time.
pub async fn keep_alive(
    connections: &mut Vec<Http1>,
    request: &Request<Payload>,
    span: Duration,
    pause: Option<Duration>,
) -> Result<Load, String> {
    let (began, mut all, mut back) = (Instant::now(), JoinSet::new(), Vec::new());
    for mut connection in connections.drain(..) {
        let request = request.clone();
        let (give, take) = tokio::sync::oneshot::channel();
        back.push(take);
        all.spawn(async move {
            let mut micros = Vec::with_capacity(1 << 14);
            while began.elapsed() < span {
                let asked = Instant::now();
                connection.expect(request.clone()).await?;
                micros.push(asked.elapsed().as_secs_f64() * 1e6);
                if let Some(pause) = pause {
                    tokio::time::sleep(pause.saturating_sub(asked.elapsed())).await;
                }
            }
            let _ = give.send(connection);
            Ok(micros)
        });
    }
    let load = Load::of(all, began).await?;
    for connection in back {
        connections.extend(connection.await);
    }
    Ok(load)
}

/// `n` at once, each request on a new connection.
pub async fn fresh(
    client: &Client,
    n: usize,
    request: &Request<Payload>,
    span: Duration,
) -> Result<Load, String> {
    let (began, mut all) = (Instant::now(), JoinSet::new());
    for _ in 0..n {
        let (client, request) = (client.clone(), request.clone());
        all.spawn(async move {
            let mut micros = Vec::new();
            while began.elapsed() < span {
                let asked = Instant::now();
                client.http1().await?.expect(request.clone()).await?;
                micros.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            Ok(micros)
        });
    }
    Load::of(all, began).await
}

/// `n` streams at once of one connection of HTTP/2.
pub async fn http2(
    client: &Client,
    n: usize,
    request: &Request<Payload>,
    span: Duration,
) -> Result<Load, String> {
    let sender = client.http2().await?;
    let (began, mut all) = (Instant::now(), JoinSet::new());
    for _ in 0..n {
        let (mut sender, request) = (sender.clone(), request.clone());
        all.spawn(async move {
            let mut micros = Vec::with_capacity(1 << 14);
            while began.elapsed() < span {
                let asked = Instant::now();
                let answer =
                    sender.send_request(request.clone()).await.map_err(|e| e.to_string())?;
                if !answer.status().is_success() {
                    return Err(answer.status().to_string());
                }
                length(answer.into_body()).await?;
                micros.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            Ok(micros)
        });
    }
    Load::of(all, began).await
}
