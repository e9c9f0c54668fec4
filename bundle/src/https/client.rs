//! One connection to an HTTPS API of JSON, for the orchestrator, which itself never speaks with a
//! server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::confine::{self, Grants, Network};
use crate::daemon::control_stdin::ControlStdin;
use crate::egress::refusal::Checks;
use crate::egress::request::authority::Authority;
use crate::egress::tls;
use crate::egress::upstream;

/// Longest answer, bytes.
const ANSWER: usize = 4 << 20;

/// For one request, from its first name lookup to the end of the answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Answers the one request that is a line of standard input, having given up everything but what a
/// client of TLS needs. `url` is of whom it asks.
///
/// # Errors
/// One line: it is no request, the process cannot be confined, or there is no answer in time.
pub fn once<R: DeserializeOwned, T>(
    url: impl Fn(&R) -> &str,
    answer: impl AsyncFnOnce(&R) -> T,
) -> Result<T, String> {
    let request: R = ControlStdin::new().next_json("request")?;
    let grants = Grants {
        ro: confine::tls_client_files(),
        rx: Vec::new(),
        rw: Vec::new(),
        skip_missing: true,
    };
    confine::seal(&grants, Network::Outgoing, false).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let late = |_| format!("{} gave no answer in {} s", url(&request), DEADLINE.as_secs());
    runtime.block_on(async { tokio::time::timeout(DEADLINE, answer(&request)).await.map_err(late) })
}

/// A connection.
pub struct Api {
    send: SendRequest<Full<Bytes>>,
    host: String,
    base: String,
}

impl Api {
    /// To the server of `url`, `https://…`; its certificate may be signed by the CAs of the PEM
    /// `ca`, too.
    ///
    /// # Errors
    /// One line for people.
    pub async fn connect(url: &str, ca: Option<&str>) -> Result<Self, String> {
        let at = |e: &dyn std::fmt::Display| format!("{url}: {e}");
        let rest = url.strip_prefix("https://").ok_or_else(|| at(&"not an https URL"))?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let to = Authority::parse(authority, Some(443)).map_err(|r| at(&r.reason))?;
        let network = upstream::network::Network::default();
        // The operator named this server: it may well be a private one.
        let addresses = network
            .resolver
            .addresses(&to, true, &Checks::default())
            .await
            .map_err(|r| at(&r.reason))?;
        let tcp = TcpStream::connect(&addresses[..]).await.map_err(|e| at(&e))?;
        let mut roots = network.roots().clone();
        for ca in ca.into_iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes())) {
            roots.add(ca.map_err(|e| at(&e))?).map_err(|e| at(&e))?;
        }
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| at(&e))?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(to.host.clone()).map_err(|e| at(&e))?;
        let stream =
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| at(&e))?;
        let (send, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| at(&e))?;
        tokio::spawn(connection);
        Ok(Self { send, host: to.host_header(443), base: path.trim_end_matches('/').to_owned() })
    }

    /// Asks for `path`, below the URL's own. What is no JSON is null.
    ///
    /// # Errors
    /// One line for people: the server may have done what it was asked, or not.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        credential: Option<(HeaderName, HeaderValue)>,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), String> {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", self.host);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(HOST, &self.host)
            .header(USER_AGENT, concat!("bot-bottle/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json");
        if let Some((name, value)) = credential {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |b| b.to_string().into());
        let request = request.body(Full::new(body)).map_err(|e| failed(&e))?;
        self.send.ready().await.map_err(|e| failed(&e))?;
        let response = self.send.send_request(request).await.map_err(|e| failed(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        let body =
            Zeroizing::new(body.map_err(|e| failed(&io::Error::other(e)))?.to_bytes().to_vec());
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}
