//! The host's own logins, as the vendors' programs keep them. They are read on the host only, and never sent into a guest.

use std::path::{Path, PathBuf};

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
    /// What renews it.
    command: &'static str,
}

fn kept(provider: Provider) -> Option<Kept> {
    match provider {
        Provider::Claude => Some(Kept {
            file: ".claude/.credentials.json",
            tokens: &[("/claudeAiOauth/accessToken", Auth::Bearer)],
            command: "claude   # on this host: it renews its login, or asks you to log in",
        }),
        Provider::Codex => Some(Kept {
            file: ".codex/auth.json",
            tokens: &[("/OPENAI_API_KEY", Auth::ApiKey), ("/tokens/access_token", Auth::Bearer)],
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
    let (_, auth) = kept.tokens.iter().find(|(path, _)| document.pointer(path).is_some_and(Value::is_string))?;
    let account = document.pointer("/tokens/account_id").and_then(Value::as_str).filter(|_| *auth == Auth::Bearer);
    let account = account.filter(|a| a.len() <= 128 && a.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    Some(LoginFacts { file, auth: *auth, account: account.map(str::to_owned) })
}

/// The access token in `file`.
///
/// # Errors
/// One line for the operator: it cannot be read, holds none, or the one in it has expired.
pub fn token(provider: Provider, file: &Path) -> Result<Zeroizing<String>, String> {
    let kept = kept(provider).ok_or("that provider keeps no login")?;
    let document = read(file)?;
    let found = kept.tokens.iter().find_map(|(path, _)| document.pointer(path).and_then(Value::as_str));
    let token = found.filter(|t| !t.is_empty()).ok_or_else(|| format!("{} holds no login; run: {}", file.display(), kept.command))?;
    match expiry(&document, token) {
        Some(end) if end < now_ms() + MARGIN => Err(format!("the login in {} has expired; run: {}", file.display(), kept.command)),
        _ => Ok(Zeroizing::new(token.to_owned())),
    }
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
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(file).map_err(said)?;
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
        format!(r#"{{"claudeAiOauth":{{"accessToken":"sk-one","refreshToken":"sk-two","expiresAt":{expires}}}}}"#)
    }

    #[test]
    fn a_login_is_read_and_an_expired_one_is_refused_without_being_shown() {
        let fresh = home(".claude/.credentials.json", &claude(now_ms() + 3_600_000));
        let facts = look(Provider::Claude, fresh.path()).unwrap();
        assert_eq!((facts.auth, facts.account), (Auth::Bearer, None));
        assert_eq!(*token(Provider::Claude, &facts.file).unwrap(), "sk-one");
        let old = home(".claude/.credentials.json", &claude(now_ms() + 1000));
        let why = token(Provider::Claude, &look(Provider::Claude, old.path()).unwrap().file).unwrap_err();
        assert!(why.contains("has expired; run: claude") && !why.contains("sk-"), "{why}");
    }

    #[test]
    fn a_login_of_chatgpt_has_an_account_and_the_end_of_its_own_token() {
        let jwt = |exp: u64| {
            use base64::Engine as _;
            format!("x.{}.y", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{exp}}}")))
        };
        let text = |exp| format!(r#"{{"OPENAI_API_KEY":null,"tokens":{{"access_token":"{}","account_id":"acc-1"}}}}"#, jwt(exp));
        let dir = home(".codex/auth.json", &text(now_ms() / 1000 + 3600));
        let facts = look(Provider::Codex, dir.path()).unwrap();
        assert_eq!((facts.auth, facts.account.as_deref()), (Auth::Bearer, Some("acc-1")));
        assert!(token(Provider::Codex, &facts.file).is_ok());
        let old = home(".codex/auth.json", &text(1));
        assert!(token(Provider::Codex, &old.path().join(".codex/auth.json")).unwrap_err().contains("codex login"));
    }

    #[test]
    fn what_is_no_login_is_none() {
        for text in ["", "[]", "{}", r#"{"claudeAiOauth":{}}"#, r#"{"claudeAiOauth":{"accessToken":7}}"#] {
            let dir = home(".claude/.credentials.json", text);
            assert!(
                look(Provider::Claude, dir.path()).is_none()
                    && token(Provider::Claude, &dir.path().join(".claude/.credentials.json")).is_err(),
                "{text}"
            );
        }
    }
}
