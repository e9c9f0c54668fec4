//! `bottle-bundle forge`: one question to a forge's API, for the orchestrator, which itself never speaks with a server. The request,
//! with its token, comes over standard input; the process is confined like egress before it resolves a name. It says `done`, `absent` of a
//! key to be revoked that is not there, or `refused: WHY` when nothing can have come of the request; of any other failure nobody knows.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{DeployKeyAction, Forge, ForgeRequest};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::confine::{self, Grants, Network};
use crate::egress::authority::Authority;
use crate::egress::refusal::Guards;
use crate::egress::{tls, upstream};
use crate::lifeline::Lines;

/// For all of it.
const DEADLINE: Duration = Duration::from_secs(20);
/// Longest answer, bytes.
const ANSWER: usize = 4 << 20;
/// Most pages of keys that are looked through.
const PAGES: usize = 100;

/// Does what standard input says.
///
/// # Errors
/// One line: what the forge said, or what kept it from being asked. No part of the token.
pub fn run() -> Result<(), String> {
    let line = Lines::new().next_line().map_err(|e| e.to_string())?;
    let request: ForgeRequest =
        serde_json::from_slice(&line).map_err(|e| format!("standard input is no request (column {})", e.column()))?;
    drop(line);
    let grants = Grants { ro: confine::tls_client_files(), rx: Vec::new(), rw: Vec::new(), skip_missing: true };
    confine::seal(&grants, Network::Outgoing, false).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let late = || format!("{} gave no answer in {} s", request.api, DEADLINE.as_secs());
    let answered = runtime.block_on(async { tokio::time::timeout(DEADLINE, answer(&request)).await.map_err(|_| late()) })?;
    match answered {
        Ok(said) => println!("{said}"),
        Err(Failure::Refused(why)) => println!("refused: {why}"),
        Err(Failure::Unknown(why)) => return Err(why),
    }
    Ok(())
}

#[derive(Debug)]
enum Failure {
    /// The forge was not reached, or said no.
    Refused(String),
    /// It may have done what it was asked, or not.
    Unknown(String),
}

async fn answer(request: &ForgeRequest) -> Result<&'static str, Failure> {
    let mut api = Api::connect(request).await.map_err(Failure::Refused)?;
    let keys = request.forge.keys(&request.repo);
    match &request.deploy_key {
        DeployKeyAction::Register { title, public_key, write } => {
            let access = if request.forge == Forge::GitLab { ("can_push", *write) } else { ("read_only", !write) };
            let body = json!({ "title": title, "key": public_key, access.0: access.1 });
            match api.call(Method::POST, &keys, Some(&body)).await.map_err(Failure::Unknown)? {
                (StatusCode::CREATED | StatusCode::OK, _) => Ok("done"),
                refused if refused.0.is_client_error() && refused.0 != StatusCode::REQUEST_TIMEOUT => {
                    Err(Failure::Refused(request.refused("register a deploy key", &refused)))
                }
                failed => Err(Failure::Unknown(request.refused("register a deploy key", &failed))),
            }
        }
        DeployKeyAction::Revoke { public_key } => {
            // Found by what it is: who registered it may have died before it knew its number. All pages, as a forge may give
            // fewer keys a page than it is asked for.
            revoke(request, &mut api, &keys, public_key).await.map_err(Failure::Unknown)
        }
    }
}

async fn revoke(request: &ForgeRequest, api: &mut Api, keys: &str, public_key: &str) -> Result<&'static str, String> {
    for page in 1..=PAGES {
        let listed = match api.call(Method::GET, &format!("{keys}?per_page=100&limit=50&page={page}"), None).await? {
            (StatusCode::OK, Value::Array(listed)) => listed,
            refused => return Err(request.refused("list deploy keys", &refused)),
        };
        if listed.is_empty() {
            return Ok("absent");
        }
        let Some(found) = listed.iter().find(|k| same_key(k["key"].as_str().unwrap_or_default(), public_key)) else { continue };
        let id = found["id"].as_u64().ok_or("the forge names a deploy key without its number")?;
        return match api.call(Method::DELETE, &format!("{keys}/{id}"), None).await? {
            (status, _) if status.is_success() || status == StatusCode::NOT_FOUND => Ok("done"),
            refused => Err(request.refused("revoke a deploy key", &refused)),
        };
    }
    Err(format!("the repository has more than {PAGES} pages of deploy keys"))
}

/// Forges keep kind and key, some with a comment of their own.
fn same_key(a: &str, b: &str) -> bool {
    let words = |k: &'_ str| k.split_ascii_whitespace().take(2).map(ToOwned::to_owned).collect::<Vec<_>>();
    words(a).len() == 2 && words(a) == words(b)
}

trait Dialect {
    /// Below the API's base.
    fn keys(self, repo: &str) -> String;
    fn credential(self, token: &str) -> (HeaderName, String);
}

impl Dialect for Forge {
    fn keys(self, repo: &str) -> String {
        match self {
            Self::GitHub | Self::Gitea => format!("/repos/{repo}/keys"),
            Self::GitLab => format!("/projects/{}/deploy_keys", repo.replace('/', "%2F")),
        }
    }

    fn credential(self, token: &str) -> (HeaderName, String) {
        match self {
            Self::GitHub => (AUTHORIZATION, format!("Bearer {token}")),
            Self::Gitea => (AUTHORIZATION, format!("token {token}")),
            Self::GitLab => (HeaderName::from_static("private-token"), token.to_owned()),
        }
    }
}

trait Refused {
    fn refused(&self, what: &str, answer: &(StatusCode, Value)) -> String;
}

impl Refused for ForgeRequest {
    fn refused(&self, what: &str, (status, body): &(StatusCode, Value)) -> String {
        let said = [&body["message"], &body["error"]].into_iter().find(|v| !v.is_null()).map(ToString::to_string).unwrap_or_default();
        // Whatever a server says is data; should it repeat the token, that is not.
        let said: String = said.replace(self.token.expose(), "***").chars().filter(|c| !c.is_control()).take(200).collect();
        let why = match *status {
            StatusCode::UNAUTHORIZED => "; the token is not valid",
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => "; the token may not manage this repository's keys, or it is not there",
            _ => "",
        };
        format!("cannot {what} of {} at {}: {status} {said}{why}", self.repo, self.api)
    }
}

/// One connection to an API.
struct Api {
    send: SendRequest<Full<Bytes>>,
    host: String,
    base: String,
    credential: (HeaderName, HeaderValue),
}

impl Api {
    async fn connect(request: &ForgeRequest) -> Result<Self, String> {
        let at = |e: &dyn std::fmt::Display| format!("{}: {e}", request.api);
        let rest = request.api.strip_prefix("https://").ok_or_else(|| at(&"not an https URL"))?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let to = Authority::parse(authority, Some(443)).map_err(|r| at(&r.reason))?;
        let network = upstream::Network::default();
        // The operator named this server: it may well be a private one.
        let addresses = network.resolver.addresses(&to, true, &Guards::default()).await.map_err(|r| at(&r.reason))?;
        let tcp = TcpStream::connect(&addresses[..]).await.map_err(|e| at(&e))?;
        let mut roots = network.roots().clone();
        for ca in request.ca.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes())) {
            roots.add(ca.map_err(|e| at(&e))?).map_err(|e| at(&e))?;
        }
        let config = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions().map_err(|e| at(&e))?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(to.host.clone()).map_err(|e| at(&e))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| at(&e))?;
        let (send, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| at(&e))?;
        tokio::spawn(connection);
        let (header, value) = request.forge.credential(request.token.expose());
        let mut value = HeaderValue::try_from(value).map_err(|_| "the token has characters that no header can carry")?;
        value.set_sensitive(true);
        Ok(Self { send, host: to.host_header(443), base: path.trim_end_matches('/').to_owned(), credential: (header, value) })
    }

    async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Value), String> {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", self.host);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(HOST, &self.host)
            .header(USER_AGENT, concat!("bot-bottle/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json")
            .header(&self.credential.0, self.credential.1.clone());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |b| b.to_string().into());
        let request = request.body(Full::new(body)).map_err(|e| failed(&e))?;
        self.send.ready().await.map_err(|e| failed(&e))?;
        let response = self.send.send_request(request).await.map_err(|e| failed(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        let body = body.map_err(|e| failed(&io::Error::other(e)))?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_whatever_its_comment() {
        assert!(same_key("ssh-ed25519 AAAA me@here", "ssh-ed25519 AAAA\n"));
        for other in ["", "ssh-ed25519", "ssh-ed25519 AAAB", "ssh-rsa AAAA"] {
            assert!(!same_key(other, "ssh-ed25519 AAAA"), "{other}");
        }
        assert!(!same_key("", ""));
    }

    #[test]
    fn each_forge_has_its_paths() {
        assert_eq!(Forge::Gitea.keys("me/x"), "/repos/me/x/keys");
        assert_eq!(Forge::GitLab.keys("group/sub/x"), "/projects/group%2Fsub%2Fx/deploy_keys");
    }

    #[test]
    fn a_server_cannot_make_the_token_be_shown() {
        let request = ForgeRequest {
            forge: Forge::GitHub,
            api: "https://h.test".into(),
            ca: None,
            token: bottle_policy::Secret::new("hunter2".into()),
            repo: "a/b".into(),
            deploy_key: DeployKeyAction::Revoke { public_key: String::new() },
        };
        let said = request.refused("x", &(StatusCode::FORBIDDEN, json!({ "message": "bad hunter2\u{1b}[2J" })));
        assert!(!said.contains("hunter2") && !said.contains('\u{1b}') && said.contains("may not manage"), "{said}");
    }
}
