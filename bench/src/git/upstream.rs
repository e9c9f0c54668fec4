//! A forge: git's own two services behind TLS, streamed.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::program::Git;
use crate::process::{self, Process};

/// Where it is and how it is known.
pub struct Upstream {
    /// Port on loopback.
    pub port: u16,
    /// Its certificate, PEM.
    pub cert: String,
}

type Body = Either<Full<Bytes>, Parts>;

/// Serves the repositories below `root` until the runtime ends.
pub async fn serve(git: Arc<Git>, root: PathBuf) -> Result<Upstream, String> {
    let text = |e: &dyn std::fmt::Display| format!("the upstream: {e}");
    let key = rcgen::KeyPair::generate().map_err(|e| text(&e))?;
    let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|p| p.self_signed(&key))
        .map_err(|e| text(&e))?
        .pem();
    let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).map_err(|e| text(&e))?];
    let der =
        PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).map_err(|e| text(&e))?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .and_then(|c| c.with_no_client_auth().with_single_cert(chain, der))
    .map_err(|e| text(&e))?;
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| text(&e))?;
    let port = listener.local_addr().map_err(|e| text(&e))?.port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (git, root, tls) = (git.clone(), root.clone(), tls.clone());
            tokio::spawn(async move {
                let Ok(io) = tls.accept(tcp).await else { return };
                let service = service_fn(|request| {
                    let (git, root) = (git.clone(), root.clone());
                    async move {
                        Ok::<_, Infallible>(
                            answer(&git, &root, request)
                                .await
                                .unwrap_or_else(|e| plain(StatusCode::INTERNAL_SERVER_ERROR, e)),
                        )
                    }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
            });
        }
    });
    Ok(Upstream { port, cert })
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(text.into())));
    *response.status_mut() = status;
    response
}

async fn answer(
    git: &Git,
    root: &Path,
    request: Request<Incoming>,
) -> Result<Response<Body>, String> {
    let (path, query) =
        (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let mut segments = path.trim_start_matches('/').splitn(2, '/');
    let (repo, rest) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let service = if rest == "info/refs" { query.strip_prefix("service=") } else { Some(rest) };
    let service = service
        .and_then(|s| s.strip_prefix("git-"))
        .filter(|s| ["upload-pack", "receive-pack"].contains(s));
    let Some(service) = service else { return Ok(plain(StatusCode::NOT_FOUND, "no such service")) };
    if request.headers().contains_key("content-encoding") {
        return Ok(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "no content coding is known here"));
    }
    let get = request.method() == Method::GET;
    let mut args: Vec<OsString> = vec![service.into(), "--stateless-rpc".into()];
    if get {
        args.push("--http-backend-info-refs".into());
    }
    args.push(root.join(repo).into());
    let protocol = request.headers().get("git-protocol").map(|v| OsStr::from_bytes(v.as_bytes()));
    let extra: Vec<_> = protocol.iter().map(|v| ("GIT_PROTOCOL", *v)).collect();
    let (stdout, child_stdout) = process::pipe()?;
    let mut stdout = pipe::Receiver::from_file(stdout).map_err(|e| e.to_string())?;
    let mut command = git.command(root, &args, &extra).stdout_file(child_stdout);
    let mut stdin = None;
    if !get {
        let (child_stdin, write) = process::pipe()?;
        stdin = Some(pipe::Sender::from_file(write).map_err(|e| e.to_string())?);
        command = command.stdin_file(child_stdin);
    }
    let child = Process::start(command)?;
    let (parts, all) = mpsc::channel(4);
    if get && request.headers().get("git-protocol").is_none_or(|v| v != "version=2") {
        let line = format!("# service=git-{service}\n");
        let _ =
            parts.send(Ok(Frame::data(format!("{:04x}{line}0000", line.len() + 4).into()))).await;
    }
    let mut body = request.into_body();
    tokio::spawn(async move {
        while let (Some(stdin), Some(Ok(frame))) = (stdin.as_mut(), body.frame().await) {
            if let Ok(data) = frame.into_data() {
                if stdin.write_all(&data).await.is_err() {
                    break;
                }
            }
        }
        drop(stdin);
        loop {
            let mut buffer = Vec::with_capacity(64 << 10);
            match stdout.read_buf(&mut buffer).await {
                Ok(n) if n > 0 => drop(parts.send(Ok(Frame::data(buffer.into()))).await),
                _ => break,
            }
        }
        let _ = tokio::task::spawn_blocking(move || child.succeeded()).await;
    });
    let kind = if get { "advertisement" } else { "result" };
    let mut response = Response::new(Either::Right(Parts(all)));
    let kind = format!("application/x-git-{service}-{kind}")
        .parse()
        .map_err(|e: http::header::InvalidHeaderValue| e.to_string())?;
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

/// The parts of an answer as they come.
struct Parts(mpsc::Receiver<Result<Frame<Bytes>, Infallible>>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx)
    }
}
