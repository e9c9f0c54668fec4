//! The host's own logins, as the vendors' programs keep them. They are read on the host only and
//! never sent into a guest.

use std::path::Path;

use bottle_policy::{Renewed, Secret};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::host::fs::read_small;
use crate::provider::{Auth, LoginFacts, LoginLayout, Provider, RenewedField};
use crate::state::now_ms;

/// Longest login file, bytes.
const MAX_FILE_BYTES: usize = 1 << 20;
/// A token that ends sooner than this counts as expired, ms.
const EXPIRY_MARGIN_MS: u64 = 60_000;
/// Longest account id, bytes.
const MAX_ACCOUNT_BYTES: usize = 128;

/// The login of `provider` below `home`; `None` when there is none that can be used.
#[must_use]
pub fn find(provider: Provider, home: &Path) -> Option<LoginFacts> {
    let layout = provider.login.as_ref()?;
    let file = home.join(layout.file);
    let document = read(&file).ok()?;
    let (_, auth) = layout
        .tokens
        .iter()
        .find(|(place, _)| document.pointer(place).is_some_and(Value::is_string))?;
    let account = layout
        .account
        .and_then(|place| document.pointer(place)?.as_str())
        .filter(|_| *auth == Auth::Bearer)
        .filter(|account| {
            let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            account.len() <= MAX_ACCOUNT_BYTES && account.bytes().all(ok)
        })
        .map(str::to_owned);
    Some(LoginFacts { file, auth: *auth, account })
}

/// A login as its file holds it now.
pub struct Login {
    layout: &'static LoginLayout,
    /// The access token.
    pub token: Zeroizing<String>,
    /// The refresh token.
    pub refresh_token: Option<Secret>,
    /// When the access token ends, ms since the epoch.
    expires_ms: Option<u64>,
    document: Value,
}

impl Login {
    /// The login in `file`.
    ///
    /// # Errors
    /// One line for the operator: it cannot be read, or holds none.
    pub fn read(provider: Provider, file: &Path) -> Result<Self, String> {
        let layout = provider.get().login.as_ref().ok_or("that provider keeps no login")?;
        let document = read(file)?;
        let found = layout.tokens.iter().find_map(|(place, auth)| {
            Some((document.pointer(place).and_then(Value::as_str)?, *auth))
        });
        let (token, auth) = found
            .filter(|(t, _)| !t.is_empty())
            .ok_or_else(|| format!("{} holds no login; run: {}", file.display(), layout.command))?;
        let refresh_token = document
            .pointer(layout.refresh_token)
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty() && auth == Auth::Bearer);
        let refresh_token = refresh_token.map(|t| Secret::new(t.to_owned()));
        Ok(Self {
            layout,
            token: Zeroizing::new(token.to_owned()),
            refresh_token,
            expires_ms: expiry(layout, &document, token),
            document,
        })
    }

    /// Whether the token has ended, or ends within the minute.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.expires_ms.is_some_and(|end| end < now_ms() + EXPIRY_MARGIN_MS)
    }

    /// The file's text after a renewal. Everything else in it stays.
    #[must_use]
    pub fn renewed(mut self, new: &Renewed) -> Zeroizing<String> {
        if let Renewed::Login { access_token, refresh_token, id_token, expires_in, at } = new {
            let text = |secret: &Secret| Value::from(secret.expose());
            let expires_ms =
                expires_in.map(|s| Value::from(now_ms().saturating_add(s.saturating_mul(1000))));
            for (place, field) in self.layout.renewed {
                let value = match field {
                    RenewedField::AccessToken => Some(text(access_token)),
                    RenewedField::RefreshToken => refresh_token.as_ref().map(text),
                    RenewedField::IdToken => id_token.as_ref().map(text),
                    // Without an end, the token is renewed only when the upstream rejects it.
                    RenewedField::ExpiresMs => Some(expires_ms.clone().unwrap_or(Value::Null)),
                    RenewedField::RenewedAt => Some(Value::from(at.as_str())),
                };
                let (parent, name) = place.rsplit_once('/').unwrap_or_default();
                if let (Some(value), Some(Value::Object(parent))) =
                    (value, self.document.pointer_mut(parent))
                {
                    parent.insert(name.to_owned(), value);
                }
            }
        }
        Zeroizing::new(format!("{:#}\n", self.document))
    }
}

/// Refuses a login that has ended and cannot be renewed.
///
/// # Errors
/// One line for the operator.
pub fn usable(provider: Provider, file: &Path) -> Result<(), String> {
    let login = Login::read(provider, file)?;
    if login.has_expired() && login.refresh_token.is_none() {
        return Err(format!(
            "the login in {} has expired; run: {}",
            file.display(),
            login.layout.command
        ));
    }
    Ok(())
}

/// When the token ends, ms since the epoch: the file says so, or the token itself (a JWT) does.
fn expiry(layout: &LoginLayout, document: &Value, token: &str) -> Option<u64> {
    if let Some(end) = layout.expires_ms.and_then(|place| document.pointer(place)?.as_u64()) {
        return Some(end);
    }
    use base64::Engine as _;
    let payload = token.split('.').nth(1)?;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Value>(&payload).ok()?.get("exp")?.as_u64()?.checked_mul(1000)
}

fn read(file: &Path) -> Result<Value, String> {
    let text = read_small(file, MAX_FILE_BYTES).map_err(|e| e.chain())?;
    serde_json::from_slice(&text).map_err(|_| format!("{}: not a login file", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claude_code() -> Provider {
        "claude".parse().unwrap()
    }

    fn codex() -> Provider {
        "codex".parse().unwrap()
    }

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
        let facts = find(claude_code(), fresh.path()).unwrap();
        assert_eq!((facts.auth, facts.account), (Auth::Bearer, None));
        assert_eq!(**Login::read(claude_code(), &facts.file).unwrap().token, *"sk-one");
        let old = home(".claude/.credentials.json", &claude(now_ms() + 1000));
        let file = find(claude_code(), old.path()).unwrap().file;
        assert!(
            Login::read(claude_code(), &file).unwrap().has_expired()
                && usable(claude_code(), &file).is_ok(),
            "it can be renewed"
        );
        std::fs::write(&file, claude(1).replace("refreshToken", "other")).unwrap();
        let why = usable(claude_code(), &file).unwrap_err();
        assert!(why.contains("has expired; run: claude") && !why.contains("sk-"), "{why}");
    }

    #[test]
    fn a_renewed_login_keeps_what_else_its_file_says() {
        let secret = |text: &str| Secret::new(text.to_owned());
        let new = |refresh: Option<&str>| Renewed::Login {
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
        let text = Login::read(claude_code(), &file).unwrap().renewed(&new(Some("next")));
        std::fs::write(&file, &*text).unwrap();
        let login = Login::read(claude_code(), &file).unwrap();
        assert_eq!(
            (
                login.token.as_str(),
                login.refresh_token.as_ref().map(Secret::expose),
                login.has_expired()
            ),
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
        let text = Login::read(codex(), &file).unwrap().renewed(&new(None));
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
        let facts = find(codex(), dir.path()).unwrap();
        assert_eq!((facts.auth, facts.account.as_deref()), (Auth::Bearer, Some("acc-1")));
        assert!(usable(codex(), &facts.file).is_ok());
        let old = home(".codex/auth.json", &text(1));
        assert!(
            usable(codex(), &old.path().join(".codex/auth.json"))
                .unwrap_err()
                .contains("codex login")
        );
    }

    #[test]
    fn a_file_without_a_token_is_no_login() {
        for text in
            ["", "[]", "{}", r#"{"claudeAiOauth":{}}"#, r#"{"claudeAiOauth":{"accessToken":7}}"#]
        {
            let dir = home(".claude/.credentials.json", text);
            assert!(
                find(claude_code(), dir.path()).is_none()
                    && usable(claude_code(), &dir.path().join(".claude/.credentials.json"))
                        .is_err(),
                "{text}"
            );
        }
    }
}
