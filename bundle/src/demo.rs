//! `bottle-bundle demo-upstream`: a TLS server on loopback that reports whether the bottle's token
//! reached it, and serves an empty git repository.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bottle_policy::Secret;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::confine::{self, Grants, Network};
use crate::daemon::control_stdin::ControlStdin;
use crate::daemon::{report, runtime};
use crate::egress::tls::provider;

/// First line of standard input.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoInput {
    /// Certificates in PEM, the server's own first.
    pub cert_chain: String,
    /// Private key in PEM.
    pub key: Secret,
    /// The token that counts as authorised.
    pub token: Secret,
}

#[derive(Serialize)]
struct WhoAmI {
    authorized: bool,
    /// SHA-256 (lower-case hex) of the bearer token in the request.
    token_sha256: Option<String>,
}

/// Runs until standard input ends. Prints `listening PORT`. [`confine::begin`] has run.
///
/// # Errors
/// One line that says what could not be started.
pub fn run() -> Result<(), String> {
    let mut stdin = ControlStdin::new();
    let input: DemoInput = stdin.next_json("demo input")?;
    let acceptor = acceptor(&input).map_err(|e| e.to_string())?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let confined =
        confine::seal(&Grants::default(), Network::Nothing, false).map_err(|e| e.to_string())?;
    tracing::info!("demo-upstream: {confined}");
    runtime::run(async {
        let mut ending = stdin.listen(|_| ())?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        report::line(&format!("listening {port}"))?;
        tokio::select! {
            _ = ending.wait_for(|end| *end) => Ok(()),
            failed = serve(listener, acceptor, Arc::new(input.token.clone())) => failed,
        }
    })
}

fn acceptor(input: &DemoInput) -> Result<TlsAcceptor, Box<dyn std::error::Error>> {
    let chain = CertificateDer::pem_slice_iter(input.cert_chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(input.key.expose().as_bytes())?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, token: Arc<Secret>) -> io::Result<()> {
    loop {
        let (tcp, _) = listener.accept().await?;
        let (acceptor, token) = (acceptor.clone(), token.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request| {
                let answer = answer(&request, &token);
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(tls), service)
                .await;
        });
    }
}

fn answer(request: &Request<Incoming>, token: &Secret) -> Response<Full<Bytes>> {
    let (status, kind, text) = match request.uri().path() {
        "/" => (StatusCode::OK, "text/plain", "hello from the demo upstream\n".to_owned()),
        "/whoami" => {
            let shown = request
                .headers()
                .get(AUTHORIZATION)
                .and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
            let who = WhoAmI {
                authorized: shown == Some(token.expose().as_bytes()),
                token_sha256: shown.map(|t| hex::encode(Sha256::digest(t))),
            };
            (
                StatusCode::OK,
                "application/json",
                serde_json::to_string(&who).unwrap_or_default() + "\n",
            )
        }
        // A repository without refs, to which nothing can be pushed.
        "/demo.git/info/refs" if request.uri().query() == Some("service=git-upload-pack") => (
            StatusCode::OK,
            "application/x-git-upload-pack-advertisement",
            "001e# service=git-upload-pack\n00000000".to_owned(),
        ),
        _ => (StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
