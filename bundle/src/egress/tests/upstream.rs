//! An upstream over real sockets on loopback, and the CA that signs for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bottle_policy::Route;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::egress::tls::provider;
use crate::egress::websocket::handshake::accept_value;

pub struct Ca {
    pub cert: String,
    pub key: String,
}

impl Ca {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut p = CertificateParams::default();
        p.distinguished_name.push(DnType::CommonName, "test CA");
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { cert: p.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    pub fn acceptor_for(&self, names: &[&str], alpn: &[&[u8]]) -> tokio_rustls::TlsAcceptor {
        let issuer =
            Issuer::from_ca_cert_pem(&self.cert, KeyPair::from_pem(&self.key).unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Arc::new(config).into()
    }

    pub fn connector(&self, sni: bool) -> tokio_rustls::TlsConnector {
        self.connector_for(sni, &[])
    }

    pub fn connector_for(&self, sni: bool, alpn: &[&[u8]]) -> tokio_rustls::TlsConnector {
        use rustls_pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_sni = sni;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Arc::new(config).into()
    }
}

/// A request that the upstream received.
#[derive(Debug, Clone)]
pub struct Seen {
    pub version: http::Version,
    pub uri: String,
    pub headers: http::HeaderMap,
    pub body: usize,
    pub text: String,
    pub trailers: http::HeaderMap,
}

pub struct Upstream {
    pub address: SocketAddr,
    pub ca: Ca,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub connections: Arc<Mutex<usize>>,
    /// The start of all bodies that arrived, complete or not.
    pub partial: Arc<Mutex<String>>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut r = Response::new(Full::new(text.into()).boxed());
    *r.status_mut() = status;
    r
}

/// Answers as the path says.
async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
    partial: Arc<Mutex<String>>,
) -> Result<Answer, Infallible> {
    if request.uri().path() == "/early" {
        // Answers before it has read the body, and then reads on.
        let mut body = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                *partial.lock().unwrap() += &String::from_utf8_lossy(frame.data_ref().unwrap());
            }
        });
        return Ok(text(StatusCode::OK, "early"));
    }
    match request.uri().path() {
        // Answers without reading the body at all.
        "/early-401" => return Ok(text(StatusCode::UNAUTHORIZED, "who are you")),
        "/early-413" => return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "too much")),
        _ => {}
    }
    let mut request = request;
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, mut body) = request.into_parts();
    let (mut n, mut broken, mut said, mut trailers) =
        (0, false, Vec::new(), http::HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                n += data.len();
                said.extend(data.iter().take(4096_usize.saturating_sub(said.len())));
                *partial.lock().unwrap() += &String::from_utf8_lossy(&data[..data.len().min(4096)]);
            }
            Ok(Err(other)) => trailers.extend(other.into_trailers().unwrap()),
            Err(_) => {
                broken = true;
                break;
            }
        }
    }
    if broken {
        return Ok(text(StatusCode::BAD_REQUEST, "broken body"));
    }
    // As nginx does.
    if (head.version == http::Version::HTTP_2) == head.headers.contains_key("host") {
        return Ok(text(StatusCode::BAD_REQUEST, "Host where it does not belong, or none"));
    }
    let path = head.uri.path().to_owned();
    let (version, said) = (head.version, String::from_utf8_lossy(&said).into_owned());
    let one = Seen {
        version,
        uri: head.uri.to_string(),
        headers: head.headers.clone(),
        body: n,
        text: said.clone(),
        trailers,
    };
    seen.lock().unwrap().push(one);
    let sent =
        head.headers.get("authorization").map_or(String::new(), |v| v.to_str().unwrap().to_owned());
    Ok(match path.as_str() {
        _ if head.method == "TRACE" => text(
            StatusCode::OK,
            format!(
                "{:?}",
                head.headers.get("authorization").map(|v| v.to_str().unwrap().to_owned())
            ),
        ),
        "/never" => std::future::pending().await,
        "/hop" => {
            let mut r = text(StatusCode::OK, "x");
            for (k, v) in [
                ("connection", "x-secret-hop"),
                ("x-secret-hop", "1"),
                ("keep-alive", "5"),
                ("proxy-authenticate", "z"),
                ("alt-svc", "h3"),
            ] {
                r.headers_mut().insert(k, v.parse().unwrap());
            }
            r
        }
        "/events" => {
            let ticks = futures_util::stream::unfold(0, |n| async move {
                (n < 5).then_some(())?;
                tokio::time::sleep(Duration::from_millis(if n == 0 { 0 } else { 100 })).await;
                Some((Ok(Frame::data(Bytes::from(format!("data: {n}\n\n")))), n + 1))
            });
            let mut r = Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(ticks)))));
            r.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
            r
        }
        "/big" => {
            let block = Bytes::from(vec![b'x'; 64 * 1024]);
            let blocks =
                futures_util::stream::iter((0..1600).map(move |_| Ok(Frame::data(block.clone()))));
            Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(blocks)))))
        }
        "/say-back" => {
            let mut r = text(StatusCode::OK, format!("you sent {sent} and more"));
            r.headers_mut().insert("x-said", sent.parse().unwrap());
            r
        }
        "/say-back-gzip" => {
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            std::io::Write::write_all(&mut gz, format!("you sent {sent} and more").as_bytes())
                .unwrap();
            let mut r = text(StatusCode::OK, gz.finish().unwrap());
            r.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            r
        }
        "/say-body" => text(StatusCode::OK, said),
        "/fresh" if !sent.ends_with("fresh-value") => text(StatusCode::UNAUTHORIZED, "expired"),
        "/fresh-say-back" if !sent.ends_with("fresh-value") => {
            text(StatusCode::UNAUTHORIZED, "expired")
        }
        "/fresh-say-back" => text(StatusCode::OK, format!("you sent {sent} and more")),
        "/say-back-trailer" => {
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("x-said"),
                sent.parse().unwrap(),
            )]);
            let frames = [Ok(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
            Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
        }
        "/trailers" => {
            let frames = [
                Ok(Frame::data(Bytes::from("data"))),
                Ok(Frame::trailers(http::HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-sum"),
                    http::HeaderValue::from_static("42"),
                )]))),
            ];
            let mut r =
                Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))));
            r.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            r
        }
        "/ws" | "/ws-lies" => {
            let key = head.headers.get("sec-websocket-key").map_or("", |v| v.to_str().unwrap());
            let accept = accept_value(if path == "/ws" { key } else { "x" }.as_bytes());
            tokio::spawn(async move { echo_messages(TokioIo::new(upgrade.await.unwrap())).await });
            let mut r = text(StatusCode::SWITCHING_PROTOCOLS, "");
            for (k, v) in [
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-accept", &accept),
            ] {
                r.headers_mut().insert(k, v.parse().unwrap());
            }
            r
        }
        "/empty" => text(StatusCode::NO_CONTENT, ""),
        _ => text(StatusCode::OK, "ok from upstream"),
    })
}

/// Sends each message of a WebSocket back, unmasked, until the other end closes.
async fn echo_messages(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut got = Vec::new();
    while io.read_buf(&mut got).await.unwrap_or(0) > 0 {
        while got.len() >= 6 && got.len() >= 6 + usize::from(got[1] & 0x7f) {
            let n = usize::from(got[1] & 0x7f);
            let frame: Vec<u8> = got.drain(..6 + n).collect();
            let mut out = vec![frame[0], u8::try_from(n).unwrap()];
            out.extend(frame[6..].iter().enumerate().map(|(i, b)| b ^ frame[2 + i % 4]));
            if io.write_all(&out).await.is_err() {
                return;
            }
        }
    }
}

/// Lets a stream that is only `Send` be boxed as a body.
struct SyncStream<T>(std::pin::Pin<Box<dyn futures_util::Stream<Item = T> + Send>>);
// SAFETY: the only method takes &mut self, so a shared reference gives access to nothing.
unsafe impl<T> Sync for SyncStream<T> {}
impl<T> futures_util::Stream for SyncStream<T> {
    type Item = T;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl Upstream {
    pub async fn start(names: &[&str], tls: bool) -> Self {
        Self::start_for(names, tls, &[b"h2", b"http/1.1"]).await
    }

    pub async fn start_for(names: &[&str], tls: bool, alpn: &[&[u8]]) -> Self {
        let ca = Ca::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = ca.acceptor_for(names, alpn);
        let (seen, connections, partial) =
            (Arc::new(Mutex::default()), Arc::new(Mutex::new(0)), Arc::new(Mutex::default()));
        let (s, c, p) = (Arc::clone(&seen), Arc::clone(&connections), Arc::clone(&partial));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, seen, partial) = (acceptor.clone(), Arc::clone(&s), Arc::clone(&p));
                *c.lock().unwrap() += 1;
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |r| {
                        answer(r, seen.clone(), partial.clone())
                    });
                    let mut http = hyper::server::conn::http1::Builder::new();
                    let http = http.timer(hyper_util::rt::TokioTimer::new());
                    if tls {
                        let Ok(io) = acceptor.accept(tcp).await else { return };
                        if io.get_ref().1.alpn_protocol() == Some(b"h2") {
                            let http =
                                hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            let _ = http.serve_connection(TokioIo::new(io), service).await;
                        } else {
                            let _ = http
                                .serve_connection(TokioIo::new(io), service)
                                .with_upgrades()
                                .await;
                        }
                    } else {
                        let _ =
                            http.serve_connection(TokioIo::new(tcp), service).with_upgrades().await;
                    }
                });
            }
        });
        Self { address, ca, seen, connections, partial }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// A route to this upstream for `host`.
    pub fn route(&self, name: &str, host: &str) -> Route {
        let host = host.parse().unwrap();
        Route {
            connect: Some(self.address),
            ca: Some(self.ca.cert.clone()),
            ..Route::to(name, host)
        }
    }
}
