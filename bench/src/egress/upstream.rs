//! The upstream: a process of its own, so that its work is nobody else's.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::text;
use super::wire::Reader;

/// Name of the hidden command that it is.
pub const COMMAND: &str = "egress-upstream";
/// The host that it is.
pub const HOST: &str = "api.upstream.test";
/// What a proxy injects for it.
pub const TOKEN: &str = "bench-5f0d41c7e2-token";
/// A header of its answers to requests with that token.
pub const WITH_TOKEN: &[u8] = b"x-token: yes";
/// What it answers with most.
const SMALL: &str = r#"{"id":"msg_01","type":"message","role":"assistant","usage":{"input_tokens":12,"output_tokens":7},"ok":true}"#;

#[derive(Serialize, Deserialize)]
struct Identity {
    cert: String,
    key: String,
}

/// An upstream that runs; ends when dropped.
pub struct Upstream {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate, PEM.
    pub cert: String,
}

impl Upstream {
    /// Starts this program again as an upstream.
    pub fn start() -> Result<Self, String> {
        let text = |e: &dyn std::fmt::Display| format!("the upstream: {e}");
        let key = rcgen::KeyPair::generate().map_err(|e| text(&e))?;
        let cert = rcgen::CertificateParams::new(vec![HOST.to_owned()]).and_then(|p| p.self_signed(&key)).map_err(|e| text(&e))?.pem();
        let program = std::env::current_exe().map_err(|e| text(&e))?;
        let mut process = Command::new(program).arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| text(&e))?;
        let identity = Identity { cert: cert.clone(), key: key.serialize_pem() };
        let line = serde_json::to_string(&identity).map_err(|e| text(&e))?;
        let (Some(stdin), Some(stdout)) = (process.stdin.as_mut(), process.stdout.as_mut()) else { return Err("no pipe".to_owned()) };
        writeln!(stdin, "{line}").map_err(|e| text(&e))?;
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).map_err(|e| text(&e))?;
        let address = said.trim().parse().map_err(|e| text(&e))?;
        Ok(Self { process, address, cert })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The hidden command: serves until standard input ends.
pub fn serve() -> Result<(), String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|e| e.to_string())?;
    let identity: Identity = serde_json::from_str(&line).map_err(|e| e.to_string())?;
    let tls = config(&identity)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|e| e.to_string())?;
    let large: Arc<[u8]> = text::large().into();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
        println!("{}", listener.local_addr().map_err(|e| e.to_string())?);
        let ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
        let accept = async {
            loop {
                let Ok((tcp, _)) = listener.accept().await else { continue };
                tokio::spawn(connection(tcp, tls.clone(), large.clone()));
            }
        };
        tokio::select! {
            _ = ended => Ok(()),
            () = accept => Ok(()),
        }
    })
}

fn config(identity: &Identity) -> Result<tokio_rustls::TlsAcceptor, String> {
    let cert = CertificateDer::from_pem_slice(identity.cert.as_bytes()).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| e.to_string())?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|c| c.with_no_client_auth().with_single_cert(vec![cert], key))
        .map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

/// A connection that breaks is its client's affair.
async fn connection(tcp: TcpStream, tls: tokio_rustls::TlsAcceptor, large: Arc<[u8]>) {
    let _ = tcp.set_nodelay(true);
    let Ok(io) = tls.accept(tcp).await else { return };
    if io.get_ref().1.alpn_protocol() == Some(b"h2") {
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async {
            request.into_body().collect().await?;
            Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from_static(SMALL.as_bytes()))))
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
        return;
    }
    let _ = http1(Reader::new(io), &large).await;
}

async fn http1(mut reader: Reader<tokio_rustls::server::TlsStream<TcpStream>>, large: &[u8]) -> io::Result<()> {
    while let Some((head, length)) = reader.head().await? {
        let big = head.starts_with(b"GET /v1/big ");
        let with_token = head.windows(TOKEN.len()).any(|w| w == TOKEN.as_bytes());
        reader.skip(length).await?;
        let token = if with_token { "x-token: yes\r\n" } else { "" };
        let bytes = if big { super::STREAMED } else { SMALL.len() };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{token}content-length: {bytes}\r\n\r\n");
        if big {
            reader.io.write_all(head.as_bytes()).await?;
            for _ in 0..super::STREAMED / text::LARGE {
                reader.io.write_all(large).await?;
            }
        } else {
            reader.io.write_all(&[head.as_bytes(), SMALL.as_bytes()].concat()).await?;
        }
        reader.io.flush().await?;
    }
    reader.io.shutdown().await
}
