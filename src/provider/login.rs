//! The host's own logins, as the vendors' programs keep them. They are read on the host only, and
//! never sent into a guest.

use std::path::{Path, PathBuf};

use bottle_policy::{RenewReply, Secret};
use serde_json::Value;
use zeroize::Zeroizing;

use super::Auth;
use crate::manifest::Provider;
use crate::state::now_ms;

/// Longest login file, bytes.
const LIMIT: u64 = 1 << 20;
/// A token that ends sooner than this is taken for expired, ms.
const MARGIN: u64 = 60_000;

/// What a plan has to know of a login; nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFacts {
    /// Where it is.
    pub file: PathBuf,
    /// As what its credential goes out.
    pub auth: Auth,
    /// The account, where requests must name it (ChatGPT's).
    pub account: Option<String>,
}

/// A vendor's way of keeping a login.
struct Kept {
    /// Below the home.
    file: &'static str,
    /// Paths of the access token in the file, by what they are.
    tokens: &'static [(&'static str, Auth)],
    /// Path of the token that renews it.
    renewed_with: &'static str,
    /// Where that is done, and the vendor's program's own name there. Both are in the pinned
    /// program.
    renewal: (&'static str, &'static str),
    /// What the operator does instead.
    command: &'static str,
}

fn kept(provider: Provider) -> Option<Kept> {
    match provider {
        Provider::Claude => Some(Kept {
            file: ".claude/.credentials.json",
            tokens: &[("/claudeAiOauth/accessToken", Auth::Bearer)],
            renewed_with: "/claudeAiOauth/refreshToken",
            renewal: (
                "https://platform.claude.com/v1/oauth/token",
                "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
            ),
            command: "claude   # on this host: it renews its login, or asks you to log in",
        }),
        Provider::Codex => Some(Kept {
            file: ".codex/auth.json",
            tokens: &[("/OPENAI_API_KEY", Auth::ApiKey), ("/tokens/access_token", Auth::Bearer)],
            renewed_with: "/tokens/refresh_token",
            renewal: ("https://auth.openai.com/oauth/token", "app_EMoamEEZ73f0CkXaXp7hrann"),
            command: "codex login   # on this host",
        }),
        Provider::Demo | Provider::Command => None,
    }
}

/// The command that makes or renews a login of `provider`.
#[must_use]
pub fn renewed_by(provider: Provider) -> &'static str {
    kept(provider).map_or("", |k| k.command)
}

/// The login of `provider` below `home`; `None` when there is none that can be used.
#[must_use]
pub fn look(provider: Provider, home: &Path) -> Option<LoginFacts> {
    let kept = kept(provider)?;
    let file = home.join(kept.file);
    let document = read(&file).ok()?;
    let (_, auth) = kept
        .tokens
        .iter()
        .find(|(path, _)| document.pointer(path).is_some_and(Value::is_string))?;
    let account = document
        .pointer("/tokens/account_id")
        .and_then(Value::as_str)
        .filter(|_| *auth == Auth::Bearer);
    let account = account.filter(|a| {
        a.len() <= 128 && a.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    Some(LoginFacts { file, auth: *auth, account: account.map(str::to_owned) })
}

/// A login as it is kept now.
pub struct Login {
    /// The access token.
    pub token: Zeroizing<String>,
    /// What renews it.
    pub renewed_with: Option<Secret>,
    ends: Option<u64>,
    document: Value,
}

impl Login {
    /// The login in `file`.
    ///
    /// # Errors
    /// One line for the operator: it cannot be read, or holds none.
    pub fn read(provider: Provider, file: &Path) -> Result<Self, String> {
        let kept = kept(provider).ok_or("that provider keeps no login")?;
        let document = read(file)?;
        let found = kept.tokens.iter().find_map(|(path, auth)| {
            Some((document.pointer(path).and_then(Value::as_str)?, *auth))
        });
        let (token, auth) = found
            .filter(|(t, _)| !t.is_empty())
            .ok_or_else(|| format!("{} holds no login; run: {}", file.display(), kept.command))?;
        let renewed_with = document
            .pointer(kept.renewed_with)
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty() && auth == Auth::Bearer);
        let renewed_with = renewed_with.map(|t| Secret::new(t.to_owned()));
        Ok(Self {
            token: Zeroizing::new(token.to_owned()),
            renewed_with,
            ends: expiry(&document, token),
            document,
        })
    }

    /// Whether the token has ended, or does so within the minute.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ends.is_some_and(|end| end < now_ms() + MARGIN)
    }

    /// The file with `new` in it, and all else as it was.
    #[must_use]
    pub fn with(mut self, provider: Provider, new: &RenewReply) -> Zeroizing<String> {
        if let RenewReply::Login { access_token, refresh_token, id_token, expires_in, at } = new {
            let text = |secret: &Secret| Value::from(secret.expose());
            let ends =
                expires_in.map(|s| Value::from(now_ms().saturating_add(s.saturating_mul(1000))));
            let changes = match provider {
                Provider::Claude => [
                    ("/claudeAiOauth/accessToken", Some(text(access_token))),
                    ("/claudeAiOauth/refreshToken", refresh_token.as_ref().map(text)),
                    // One that says nothing of its end is asked for again only when it is turned
                    // down.
                    ("/claudeAiOauth/expiresAt", Some(ends.unwrap_or(Value::Null))),
                    ("", None),
                ],
                _ => [
                    ("/tokens/access_token", Some(text(access_token))),
                    ("/tokens/refresh_token", refresh_token.as_ref().map(text)),
                    ("/tokens/id_token", id_token.as_ref().map(text)),
                    ("/last_refresh", Some(Value::from(at.as_str()))),
                ],
            };
            for (path, value) in
                changes.into_iter().filter_map(|(path, value)| Some((path, value?)))
            {
                let (parent, name) = path.rsplit_once('/').unwrap_or_default();
                if let Some(Value::Object(parent)) = self.document.pointer_mut(parent) {
                    parent.insert(name.to_owned(), value);
                }
            }
        }
        Zeroizing::new(format!("{:#}\n", self.document))
    }
}

/// Where, and as which program, the logins of `provider` are renewed.
#[must_use]
pub fn renewal(provider: Provider) -> Option<(&'static str, &'static str)> {
    kept(provider).map(|k| k.renewal)
}

/// Refuses a login that has ended and cannot be renewed.
///
/// # Errors
/// One line for the operator.
pub fn usable(provider: Provider, file: &Path) -> Result<(), String> {
    let login = Login::read(provider, file)?;
    if login.ended() && login.renewed_with.is_none() {
        return Err(format!(
            "the login in {} has expired; run: {}",
            file.display(),
            renewed_by(provider)
        ));
    }
    Ok(())
}

/// When the token ends, ms since the epoch: the file says so, or the token itself (a JWT) does.
fn expiry(document: &Value, token: &str) -> Option<u64> {
    if let Some(end) = document.pointer("/claudeAiOauth/expiresAt").and_then(Value::as_u64) {
        return Some(end);
    }
    use base64::Engine as _;
    let payload = token.split('.').nth(1)?;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Value>(&payload).ok()?.get("exp")?.as_u64()?.checked_mul(1000)
}

fn read(file: &Path) -> Result<Value, String> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let said = |e: std::io::Error| format!("{}: {e}", file.display());
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(file)
        .map_err(said)?;
    let mut text = Zeroizing::new(Vec::new());
    opened.take(LIMIT).read_to_end(&mut text).map_err(said)?;
    serde_json::from_slice(&text).map_err(|_| format!("{}: not a login file", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(file: &str, text: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        home
    }

    fn claude(expires: u64) -> String {
        format!(
            r#"{{"claudeAiOauth":{{"accessToken":"sk-one","refreshToken":"sk-two","expiresAt":{expires}}}}}"#
        )
    }

    #[test]
    fn a_login_is_read_and_an_expired_one_is_refused_without_being_shown() {
        let fresh = home(".claude/.credentials.json", &claude(now_ms() + 3_600_000));
        let facts = look(Provider::Claude, fresh.path()).unwrap();
        assert_eq!((facts.auth, facts.account), (Auth::Bearer, None));
        assert_eq!(**Login::read(Provider::Claude, &facts.file).unwrap().token, *"sk-one");
        let old = home(".claude/.credentials.json", &claude(now_ms() + 1000));
        let file = look(Provider::Claude, old.path()).unwrap().file;
        assert!(
            Login::read(Provider::Claude, &file).unwrap().ended()
                && usable(Provider::Claude, &file).is_ok(),
            "it can be renewed"
        );
        std::fs::write(&file, claude(1).replace("refreshToken", "other")).unwrap();
        let why = usable(Provider::Claude, &file).unwrap_err();
        assert!(why.contains("has expired; run: claude") && !why.contains("sk-"), "{why}");
    }

    #[test]
    fn a_renewed_login_keeps_what_else_its_file_says() {
        let secret = |text: &str| Secret::new(text.to_owned());
        let new = |refresh: Option<&str>| RenewReply::Login {
            access_token: secret("new"),
            refresh_token: refresh.map(secret),
            id_token: Some(secret("who")),
            expires_in: Some(3600),
            at: "2026-01-02T03:04:05Z".into(),
        };
        let dir = home(
            ".claude/.credentials.json",
            &claude(1).replace("}}", r#","scopes":["a"]},"other":7}"#),
        );
        let file = dir.path().join(".claude/.credentials.json");
        let text = Login::read(Provider::Claude, &file)
            .unwrap()
            .with(Provider::Claude, &new(Some("next")));
        std::fs::write(&file, &*text).unwrap();
        let login = Login::read(Provider::Claude, &file).unwrap();
        assert_eq!(
            (login.token.as_str(), login.renewed_with.as_ref().map(Secret::expose), login.ended()),
            ("new", Some("next"), false)
        );
        assert_eq!(
            (&login.document["claudeAiOauth"]["scopes"][0], &login.document["other"]),
            (&Value::from("a"), &Value::from(7))
        );
        let dir = home(
            ".codex/auth.json",
            r#"{"OPENAI_API_KEY":null,"tokens":{"access_token":"a","refresh_token":"b","account_id":"c"}}"#,
        );
        let file = dir.path().join(".codex/auth.json");
        let text = Login::read(Provider::Codex, &file).unwrap().with(Provider::Codex, &new(None));
        let after: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            after["tokens"],
            serde_json::json!({ "access_token": "new", "refresh_token": "b", "id_token": "who", "account_id": "c" })
        );
        assert_eq!(after["last_refresh"], "2026-01-02T03:04:05Z");
    }

    #[test]
    fn a_login_of_chatgpt_has_an_account_and_the_end_of_its_own_token() {
        let jwt = |exp: u64| {
            use base64::Engine as _;
            format!(
                "x.{}.y",
                base64::engine::general_purpose::URL_SAFE_NO_PAD
                    .encode(format!("{{\"exp\":{exp}}}"))
            )
        };
        let text = |exp| {
            format!(
                r#"{{"OPENAI_API_KEY":null,"tokens":{{"access_token":"{}","account_id":"acc-1"}}}}"#,
                jwt(exp)
            )
        };
        let dir = home(".codex/auth.json", &text(now_ms() / 1000 + 3600));
        let facts = look(Provider::Codex, dir.path()).unwrap();
        assert_eq!((facts.auth, facts.account.as_deref()), (Auth::Bearer, Some("acc-1")));
        assert!(usable(Provider::Codex, &facts.file).is_ok());
        let old = home(".codex/auth.json", &text(1));
        assert!(
            usable(Provider::Codex, &old.path().join(".codex/auth.json"))
                .unwrap_err()
                .contains("codex login")
        );
    }

    #[test]
    fn what_is_no_login_is_none() {
        for text in
            ["", "[]", "{}", r#"{"claudeAiOauth":{}}"#, r#"{"claudeAiOauth":{"accessToken":7}}"#]
        {
            let dir = home(".claude/.credentials.json", text);
            assert!(
                look(Provider::Claude, dir.path()).is_none()
                    && usable(Provider::Claude, &dir.path().join(".claude/.credentials.json"))
                        .is_err(),
                "{text}"
            );
        }
    }
}
