//! Who may see and decide: whoever has the key, which the token of the printed URL buys once.

use std::cell::RefCell;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

use crate::error::{Context, Kind, Result};

/// One browser's session.
pub(super) struct Session {
    /// Hash of the token, until it is used.
    token: RefCell<Option<[u8; 32]>>,
    /// The key that it buys.
    key: String,
}

impl Session {
    /// A session, and the token for it.
    pub(super) fn new() -> Result<(Self, String)> {
        let (token, key) = (random()?, random()?);
        Ok((Self { token: RefCell::new(Some(hash(&token))), key }, token))
    }

    /// The key, for the right token; it is `once` that it works.
    pub(super) fn buy(&self, token: &str, once: bool) -> Option<&str> {
        let mut kept = self.token.borrow_mut();
        // Hashes are compared, so that time says nothing about the token.
        let right = kept.is_some_and(|t| t == hash(token));
        if right && once {
            *kept = None;
        }
        right.then_some(self.key.as_str())
    }

    /// Whether a request has the key: `Authorization: Bearer KEY`, once.
    pub(super) fn is_opened_by(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (first, more) = (given.next(), given.next());
        let key = first.and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
        more.is_none() && key.is_some_and(|k| hash(k) == hash(&self.key))
    }
}

fn random() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context(Kind::Internal, || "no randomness".into())?;
    Ok(hex::encode(bytes))
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_buys_the_key_once_and_only_the_key_opens() {
        let (session, token) = Session::new().unwrap();
        assert_eq!(session.buy("wrong", true), None);
        let key = session.buy(&token, true).unwrap().to_owned();
        assert_eq!(session.buy(&token, true), None, "once");
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
