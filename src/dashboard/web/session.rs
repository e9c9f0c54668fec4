//! Who may see and decide: whoever has the session's key. The one-time token of the printed URL is
//! exchanged for it.

use std::cell::RefCell;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

use crate::error::{Context, ErrorKind, Result};

/// One browser's session.
pub(super) struct Session {
    /// Hash of the token, until it is used.
    token: RefCell<Option<[u8; 32]>>,
    /// The key that the token is exchanged for.
    key: String,
}

impl Session {
    /// A session, and its one-time token.
    pub(super) fn new() -> Result<(Self, String)> {
        let (token, key) = (random()?, random()?);
        Ok((Self { token: RefCell::new(Some(hash(&token))), key }, token))
    }

    /// The key, for the right token. With `once`, the token works no second time.
    pub(super) fn exchange(&self, token: &str, once: bool) -> Option<&str> {
        let mut kept = self.token.borrow_mut();
        // Hashes are compared, so that the time it takes reveals nothing about the token.
        let right = kept.is_some_and(|t| t == hash(token));
        if right && once {
            *kept = None;
        }
        right.then_some(self.key.as_str())
    }

    /// True when a request has the key: exactly one `Authorization: Bearer KEY`.
    pub(super) fn is_opened_by(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (first, more) = (given.next(), given.next());
        let key = first.and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
        more.is_none() && key.is_some_and(|k| hash(k) == hash(&self.key))
    }
}

fn random() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context(ErrorKind::Internal, || "no randomness".into())?;
    Ok(hex::encode(bytes))
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_exchanged_for_the_key_once() {
        let (session, token) = Session::new().unwrap();
        assert_eq!(session.exchange("wrong", true), None);
        let key = session.exchange(&token, true).unwrap().to_owned();
        assert_eq!(session.exchange(&token, true), None, "once");
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            session.is_opened_by(&headers)
        };
        assert!(with(&[&format!("Bearer {key}")]));
        for bad in [
            &[][..],
            &[""],
            &["Bearer "],
            &[&key],
            &[&format!("Bearer {token}")],
            &[&format!("Bearer {key}"), "Bearer x"],
        ] {
            assert!(!with(bad), "{bad:?}");
        }
    }
}
