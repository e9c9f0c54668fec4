//! `bottle-bundle forge`: one question to a forge's API, for the orchestrator, which itself never
//! speaks with a server. The request, with its token, comes over standard input; the process is
//! confined like egress before it resolves a name. It says `done`, `absent` of a key to be revoked
//! that is not there, or `refused: WHY` when nothing can have come of the request; of any other
//! failure nobody knows.

use bottle_policy::{DeployKeyAction, Forge, ForgeRequest};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::https::client::{self, Api};

/// Most pages of keys that are looked through.
const PAGES: usize = 100;

/// Does what standard input says.
///
/// # Errors
/// One line: what the forge said, or what kept it from being asked. No part of the token.
pub fn run() -> Result<(), String> {
    let answered = client::once(|request: &ForgeRequest| &request.api, answer)?;
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
    let mut api =
        Api::connect(&request.api, request.ca.as_deref()).await.map_err(Failure::Refused)?;
    let (header, value) = request.forge.credential(request.token.expose());
    let value = HeaderValue::try_from(value)
        .map_err(|_| "the token has characters that no header can carry".to_owned());
    let mut value = value.map_err(Failure::Refused)?;
    value.set_sensitive(true);
    let credential = Some((header, value));
    let keys = request.forge.keys(&request.repo);
    match &request.deploy_key {
        DeployKeyAction::Register { title, public_key, write } => {
            let access = if request.forge == Forge::GitLab {
                ("can_push", *write)
            } else {
                ("read_only", !write)
            };
            let body = json!({ "title": title, "key": public_key, access.0: access.1 });
            match api
                .call(Method::POST, &keys, credential, Some(&body))
                .await
                .map_err(Failure::Unknown)?
            {
                (StatusCode::CREATED | StatusCode::OK, _) => Ok("done"),
                refused
                    if refused.0.is_client_error() && refused.0 != StatusCode::REQUEST_TIMEOUT =>
                {
                    Err(Failure::Refused(request.refused("register a deploy key", &refused)))
                }
                failed => Err(Failure::Unknown(request.refused("register a deploy key", &failed))),
            }
        }
        DeployKeyAction::Revoke { public_key } => {
            // Found by what it is: who registered it may have died before it knew its number. All
            // pages, as a forge may give fewer keys a page than it is asked for.
            revoke(request, &mut api, (&keys, &credential), public_key)
                .await
                .map_err(Failure::Unknown)
        }
    }
}

type Credential = Option<(HeaderName, HeaderValue)>;

async fn revoke(
    request: &ForgeRequest,
    api: &mut Api,
    (keys, credential): (&str, &Credential),
    public_key: &str,
) -> Result<&'static str, String> {
    for page in 1..=PAGES {
        let listed = match api
            .call(
                Method::GET,
                &format!("{keys}?per_page=100&limit=50&page={page}"),
                credential.clone(),
                None,
            )
            .await?
        {
            (StatusCode::OK, Value::Array(listed)) => listed,
            refused => return Err(request.refused("list deploy keys", &refused)),
        };
        if listed.is_empty() {
            return Ok("absent");
        }
        let Some(found) =
            listed.iter().find(|k| same_key(k["key"].as_str().unwrap_or_default(), public_key))
        else {
            continue;
        };
        let id = found["id"].as_u64().ok_or("the forge names a deploy key without its number")?;
        return match api
            .call(Method::DELETE, &format!("{keys}/{id}"), credential.clone(), None)
            .await?
        {
            (status, _) if status.is_success() || status == StatusCode::NOT_FOUND => Ok("done"),
            refused => Err(request.refused("revoke a deploy key", &refused)),
        };
    }
    Err(format!("the repository has more than {PAGES} pages of deploy keys"))
}

/// Forges keep kind and key, some with a comment of their own.
fn same_key(a: &str, b: &str) -> bool {
    let words =
        |k: &'_ str| k.split_ascii_whitespace().take(2).map(ToOwned::to_owned).collect::<Vec<_>>();
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
        let said = [&body["message"], &body["error"]]
            .into_iter()
            .find(|v| !v.is_null())
            .map(ToString::to_string)
            .unwrap_or_default();
        // Whatever a server says is data; should it repeat the token, that is not.
        let said = bottle_policy::text::remove(&said.replace(self.token.expose(), "***"), 200);
        let why = match *status {
            StatusCode::UNAUTHORIZED => "; the token is not valid",
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                "; the token may not manage this repository's keys, or it is not there"
            }
            _ => "",
        };
        format!("cannot {what} of {} at {}: {status} {said}{why}", self.repo, self.api)
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
        let said = request
            .refused("x", &(StatusCode::FORBIDDEN, json!({ "message": "bad hunter2\u{1b}[2J" })));
        assert!(
            !said.contains("hunter2")
                && !said.contains('\u{1b}')
                && said.contains("may not manage"),
            "{said}"
        );
    }
}
