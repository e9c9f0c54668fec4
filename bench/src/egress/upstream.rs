//! The upstream: a process of its own, so that its work is nobody else's.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use duct::cmd;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

use super::payload::Payload;
use super::text;
use crate::process::{self, Process};

/// Name of the hidden command that it is.
pub const COMMAND: &str = "egress-upstream";
/// The host that it is.
pub const HOST: &str = "api.upstream.test";
/// What a proxy injects for it.
pub const TOKEN: &str = "bench-5f0d41c7e2-token";
/// A header of its answers to requests with that token.
pub const TOKEN_CAME: &str = "x-token";
/// The path of its long answer.
pub const LONG: &str = "/v1/big";
/// What it answers with most.
const SMALL: &str = r#"{"id":"msg_01","type":"message","role":"assistant","usage":{"input_tokens":12,"output_tokens":7},"ok":true}"#;

#[derive(Serialize, Deserialize)]
struct Identity {
    cert: String,
    key: String,
}

/// An upstream that runs; ends when dropped.
pub struct Upstream {
    process: Process,
    stdin: Option<File>,
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
        let cert = rcgen::CertificateParams::new(vec![HOST.to_owned()])
            .and_then(|p| p.self_signed(&key))
            .map_err(|e| text(&e))?
            .pem();
        let program = std::env::current_exe().map_err(|e| text(&e))?;
        let (child_stdin, mut stdin) = process::pipe()?;
        let (stdout, child_stdout) = process::pipe()?;
        let command = cmd!(program, COMMAND).stdin_file(child_stdin).stdout_file(child_stdout);
        let process = Process::start(command)?;
        let identity = Identity { cert: cert.clone(), key: key.serialize_pem() };
        let line = serde_json::to_string(&identity).map_err(|e| text(&e))?;
        writeln!(stdin, "{line}").map_err(|e| text(&e))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map_err(|e| text(&e))?;
        let address = line.trim().parse().map_err(|e| text(&e))?;
        Ok(Self { process, stdin: Some(stdin), address, cert })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.process.succeeded();
    }
}

/// The hidden command: serves until standard input ends.
pub fn serve() -> Result<(), String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|e| e.to_string())?;
    let identity: Identity = serde_json::from_str(&line).map_err(|e| e.to_string())?;
    let tls = config(&identity)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let large = Bytes::from(text::large());
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
    let cert =
        CertificateDer::from_pem_slice(identity.cert.as_bytes()).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| e.to_string())?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .and_then(|c| c.with_no_client_auth().with_single_cert(vec![cert], key))
    .map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

/// A connection that breaks is its client's affair.
async fn connection(tcp: TcpStream, tls: tokio_rustls::TlsAcceptor, large: Bytes) {
    let _ = tcp.set_nodelay(true);
    let Ok(io) = tls.accept(tcp).await else { return };
    let is_http2 = io.get_ref().1.alpn_protocol() == Some(b"h2");
    let (io, service) = (TokioIo::new(io), service_fn(|request| answer(request, large.clone())));
    if is_http2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

async fn answer(
    request: Request<Incoming>,
    large: Bytes,
) -> Result<Response<Payload>, hyper::Error> {
    let with_token = request
        .headers()
        .get(AUTHORIZATION)
        .is_some_and(|v| v.as_bytes().ends_with(TOKEN.as_bytes()));
    let long = request.uri().path() == LONG;
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let payload =
        if long { Payload::streamed(large) } else { Bytes::from_static(SMALL.as_bytes()).into() };
    let mut response = Response::new(payload);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if with_token {
        response.headers_mut().insert(TOKEN_CAME, HeaderValue::from_static("yes"));
    }
    Ok(response)
}
