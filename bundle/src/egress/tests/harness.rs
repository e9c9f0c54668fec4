//! A proxy and its guest in one test process, over real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::audit::{AuditWriter, Bounds, verify};
use bottle_policy::{EgressReport, Inject, Place, Policy, Route, Scheme, Secret, TokenName};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::upstream::Ca;
use crate::egress::limits::Limits;
use crate::egress::policy::live::LivePolicy;
use crate::egress::refusal::{Checks, Rule};
use crate::egress::route::tokens::Tokens;
use crate::egress::server;
use crate::egress::shared::Shared;
use crate::egress::tls::LeafCertificates;
use crate::egress::upstream::network::Network;

/// Marks the audit line that is written before a request leaves.
pub const ADMITTED: &str = r#""event":"admitted""#;

pub const TOKEN: &str = "tok-3c5f0a-real-value";

/// Injection of the test token.
pub fn bearer() -> Option<Inject> {
    Some(Inject {
        place: Place::Header("authorization".into()),
        scheme: Scheme::Bearer,
        token: "TOKEN".parse().unwrap(),
    })
}

pub struct Bench {
    pub ca: Ca,
    dir: tempfile::TempDir,
    end: watch::Sender<bool>,
    pub server: tokio::task::JoinHandle<std::io::Result<()>>,
    /// Replaces the policy, or a token's value.
    pub policy: Arc<LivePolicy>,
    /// Reports to the orchestrator.
    pub reports: mpsc::UnboundedReceiver<EgressReport>,
}

pub struct Options {
    /// Rules to disable, for a negative control.
    pub disabled: Vec<Rule>,
    /// Path of the audit log, instead of a file in the bench's own directory.
    pub log: Option<std::path::PathBuf>,
    pub limits: Limits,
    pub bounds: Bounds,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            disabled: vec![],
            log: None,
            limits: Limits { drain: Duration::from_secs(2), ..Limits::default() },
            bounds: Bounds::default(),
        }
    }
}

impl Bench {
    pub fn start(routes: Vec<Route>) -> Self {
        Self::with(routes, Options::default())
    }

    pub fn with(routes: Vec<Route>, options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        let network = Arc::new(Network::new(options.limits, Checks::without(&options.disabled)));
        let name: TokenName = "TOKEN".parse().unwrap();
        let (sender, reports) = mpsc::unbounded_channel();
        let values = BTreeMap::from([(name.clone(), Secret::new(TOKEN.into()))]);
        let tokens = Arc::new(Tokens::new(values, &BTreeSet::from([name]), &sender));
        let policy =
            Arc::new(LivePolicy::new(Policy::new(routes), tokens, network.clone()).unwrap());
        let (end, ending) = watch::channel(false);
        let log = options.log.unwrap_or_else(|| dir.path().join("audit"));
        let requests = Arc::new(tokio::sync::Semaphore::new(network.limits.requests));
        let shared = Shared {
            requests,
            policy: policy.clone(),
            certificates: LeafCertificates::new(&ca.cert, &Secret::new(ca.key.clone())).unwrap(),
            log: Arc::new(AuditWriter::with_bounds(&log, "egress", options.bounds).unwrap()),
            network,
            tasks: Default::default(),
            ending,
            cut: watch::Sender::new(false),
        };
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let server = tokio::spawn(server::serve(Arc::new(shared), listener));
        Self { ca, dir, end, server, policy, reports }
    }

    pub fn end(&self) {
        self.end.send(true).unwrap();
    }

    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("s")).await.unwrap()
    }

    /// A connection after CONNECT, or the refusal's response.
    pub async fn tunnel(&self, authority: &str) -> Result<UnixStream, String> {
        let mut io = self.connect().await;
        io.write_all(
            format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
        let answer = response(&mut io).await;
        if answer.starts_with("HTTP/1.1 200 ") { Ok(io) } else { Err(answer) }
    }

    /// TLS with `host` through a tunnel.
    pub async fn tls(&self, host: &str) -> TlsStream<UnixStream> {
        self.tls_as(&format!("{host}:443"), host, true).await.unwrap()
    }

    pub async fn tls_as(
        &self,
        authority: &str,
        name: &str,
        sni: bool,
    ) -> std::io::Result<TlsStream<UnixStream>> {
        let io = self.tunnel(authority).await.unwrap();
        self.ca.connector(sni).connect(ServerName::try_from(name.to_owned()).unwrap(), io).await
    }

    /// An HTTP/2 connection through a tunnel.
    pub async fn http2(&self, host: &str) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let io = self.tunnel(&format!("{host}:443")).await.unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let tls = self.ca.connector_for(true, &[b"h2"]).connect(name, io).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (send, conn) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                .await
                .unwrap();
        tokio::spawn(conn);
        send
    }

    /// One request in a tunnel of its own.
    pub async fn get(&self, host: &str, path: &str) -> String {
        let mut io = self.tls(host).await;
        io.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        // Many of these in one task exhaust tokio's budget, and then the TLS layer keeps the rest.
        io.flush().await.unwrap();
        response(&mut io).await
    }

    pub fn audit_text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("audit")).unwrap()
    }

    /// The audit log, verified, once it has `n` lines besides the opening lines.
    pub async fn audit(&self, n: usize) -> Vec<serde_json::Value> {
        let mut text = String::new();
        for _ in 0..200 {
            text = self.audit_text();
            if text.lines().filter(|l| !l.contains(ADMITTED)).count() >= n {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        verify(text.as_bytes()).unwrap();
        let lines: Vec<_> = text
            .lines()
            .filter(|l| !l.contains(ADMITTED))
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), n, "{text}");
        lines
    }
}

/// One response as text: head, blank line, body (by Content-Length, or up to the end).
pub async fn response(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let mut got = Vec::new();
    let mut part = [0; 8192];
    loop {
        let all = String::from_utf8_lossy(&got).into_owned();
        if let Some((head, body)) = all.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| {
                l.to_ascii_lowercase().strip_prefix("content-length: ").and_then(|n| n.parse().ok())
            });
            let connected = head.starts_with("HTTP/1.1 200") && !head.contains("\r\n");
            let chunked = head.to_ascii_lowercase().contains("transfer-encoding");
            if body.len() >= length.unwrap_or(if connected || !chunked { 0 } else { usize::MAX })
                || body.ends_with("0\r\n\r\n")
            {
                return all;
            }
        }
        match timeout(Duration::from_secs(6), io.read(&mut part)).await {
            Ok(Ok(n)) if n > 0 => got.extend_from_slice(&part[..n]),
            Ok(_) => return all,
            Err(_) => return format!("TIMEOUT after {all:?}"),
        }
    }
}
