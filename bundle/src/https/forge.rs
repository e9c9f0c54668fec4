//! `bottle-bundle forge`: registers or revokes a deploy key at a forge. The request, with its
//! token, comes over standard input; the process is confined like egress before it resolves a name.
//!
//! It prints `done`, `absent` (a key to be revoked is not there), or `refused: WHY` (the forge
//! certainly did nothing). After any other failure it is unknown whether the forge acted.

use bottle_policy::{DeployKeyAction, Forge, ForgeRequest};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::https::client::{self, HttpsClient};

/// Most characters of the forge's own message that are quoted.
const MAX_MESSAGE_CHARS: usize = 200;
/// Most pages of keys that are searched.
const MAX_PAGES: usize = 100;

/// Handles the request on standard input.
///
/// # Errors
/// One line: what the forge answered, or why it was not reached. It contains no part of the token.
pub fn run() -> Result<(), String> {
    let answered = client::run_once(|request: &ForgeRequest| &request.api, answer)?;
    match answered {
        Ok(result) => println!("{result}"),
        Err(Failure::Refused(why)) => println!("refused: {why}"),
        Err(Failure::Unknown(why)) => return Err(why),
    }
    Ok(())
}

#[derive(Debug)]
enum Failure {
    /// The forge was not reached, or it refused.
    Refused(String),
    /// It is unknown whether the forge acted.
    Unknown(String),
}

async fn answer(request: &ForgeRequest) -> Result<&'static str, Failure> {
    let mut client = HttpsClient::connect(&request.api, request.ca.as_deref())
        .await
        .map_err(Failure::Refused)?;
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
            match client
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
            // The key is searched by its text, because the launch that registered it may have died
            // before it got the number.
            revoke(request, &mut client, (&keys, &credential), public_key)
                .await
                .map_err(Failure::Unknown)
        }
    }
}

type Credential = Option<(HeaderName, HeaderValue)>;

async fn revoke(
    request: &ForgeRequest,
    client: &mut HttpsClient,
    (keys, credential): (&str, &Credential),
    public_key: &str,
) -> Result<&'static str, String> {
    // All pages are read, because a forge may return fewer keys a page than it is asked for.
    for page in 1..=MAX_PAGES {
        let listed = match client
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
        return match client
            .call(Method::DELETE, &format!("{keys}/{id}"), credential.clone(), None)
            .await?
        {
            (status, _) if status.is_success() || status == StatusCode::NOT_FOUND => Ok("done"),
            refused => Err(request.refused("revoke a deploy key", &refused)),
        };
    }
    Err(format!("the repository has more than {MAX_PAGES} pages of deploy keys"))
}

/// Compares algorithm and key. A forge may replace the comment.
fn same_key(a: &str, b: &str) -> bool {
    let words =
        |k: &'_ str| k.split_ascii_whitespace().take(2).map(ToOwned::to_owned).collect::<Vec<_>>();
    words(a).len() == 2 && words(a) == words(b)
}

trait Dialect {
    /// The path of the repository's deploy keys.
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
        let message = [&body["message"], &body["error"]]
            .into_iter()
            .find(|v| !v.is_null())
            .map(ToString::to_string)
            .unwrap_or_default();
        // The message is quoted as data, without the token in case the server repeats it.
        let message = message.replace(self.token.expose(), "***");
        let message = bottle_policy::text::remove(&message, MAX_MESSAGE_CHARS);
        let why = match *status {
            StatusCode::UNAUTHORIZED => "; the token is not valid",
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                "; the token may not manage this repository's keys, or it is not there"
            }
            _ => "",
        };
        format!("cannot {what} of {} at {}: {status} {message}{why}", self.repo, self.api)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_without_their_comments() {
        assert!(same_key("ssh-ed25519 AAAA me@here", "ssh-ed25519 AAAA\n"));
        for other in ["", "ssh-ed25519", "ssh-ed25519 AAAB", "ssh-rsa AAAA"] {
            assert!(!same_key(other, "ssh-ed25519 AAAA"), "{other}");
        }
        assert!(!same_key("", ""));
    }

    #[test]
    fn each_forge_has_its_own_paths() {
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
