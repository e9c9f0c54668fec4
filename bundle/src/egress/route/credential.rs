//! The credential that the proxy puts into requests.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use zeroize::Zeroizing;

use base64::Engine as _;
use bottle_policy::{Inject, Place, Scheme, Secret};

use crate::egress::request::headers::HOP_BY_HOP;

/// A credential, ready to be put into requests. Its memory is wiped when the last copy is dropped.
#[derive(Clone)]
pub enum Credential {
    /// A header and its value.
    Header(HeaderName, HeaderValue),
    /// A query parameter and its value, escaped.
    Query(String, Arc<Zeroizing<String>>),
}

/// Why a credential cannot be put into requests. It never contains the value.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The header belongs to the connection or to routing.
    #[error("header {0:?} cannot be injected")]
    Header(String),
    /// The parameter's name would need escaping.
    #[error("query parameter {0:?} cannot be injected")]
    Query(String),
    /// The value has a character that a header cannot have.
    #[error("the value of token {0} has a line break or another control character")]
    Value(String),
}

/// Bytes that are wiped on drop, in a shape that `Bytes` takes over without a copy.
struct WipedOnDrop(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for WipedOnDrop {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Credential {
    /// The credential that `inject` describes, with the value `token`.
    ///
    /// # Errors
    /// A place that must not be injected into, or a value that does not fit there.
    pub fn new(inject: &Inject, token: &Secret) -> Result<Self, CredentialError> {
        let text = with_scheme(inject.scheme, token.expose().as_bytes());
        match &inject.place {
            Place::Header(header) => {
                let bad = || CredentialError::Header(header.clone());
                let name = HeaderName::from_bytes(header.as_bytes()).map_err(|_| bad())?;
                let routing =
                    HOP_BY_HOP.contains(&name.as_str()) || name.as_str().starts_with("proxy-");
                if routing
                    || [HOST, http::header::CONTENT_LENGTH, http::header::TRAILER].contains(&name)
                {
                    return Err(bad());
                }
                let value: Result<HeaderValue, InvalidHeaderValue> =
                    HeaderValue::from_maybe_shared(Bytes::from_owner(WipedOnDrop(text)));
                let mut value =
                    value.map_err(|_| CredentialError::Value(inject.token.to_string()))?;
                value.set_sensitive(true);
                Ok(Self::Header(name, value))
            }
            Place::Query(name) => {
                if name.is_empty()
                    || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.[]".contains(&b))
                {
                    return Err(CredentialError::Query(name.clone()));
                }
                let mut value = Zeroizing::new(String::with_capacity(text.len() * 3));
                for b in text.iter() {
                    if b.is_ascii_alphanumeric() || b"-._~".contains(b) {
                        value.push(char::from(*b));
                    } else {
                        let digit = |n: u8| char::from(b"0123456789ABCDEF"[usize::from(n)]);
                        value.extend(['%', digit(b >> 4), digit(b & 15)]);
                    }
                }
                Ok(Self::Query(name.clone(), Arc::new(value)))
            }
        }
    }

    /// Removes what the guest sent in the credential's place. `x_api_key` counts as `x-api-key`,
    /// because CGI-style servers do not tell them apart. A parameter counts in any case and escaping.
    pub fn clear(&self, headers: &mut HeaderMap, query: &mut Option<String>) {
        match self {
            Self::Header(name, _) => {
                let sent: Vec<HeaderName> =
                    headers.keys().filter(|n| same_header(n, name)).cloned().collect();
                for name in sent {
                    headers.remove(name);
                }
            }
            Self::Query(name, _) => {
                if let Some(text) = query {
                    let kept: Vec<&str> = text
                        .split('&')
                        .filter(|part| !part.split(';').any(|p| is_parameter(p, name)))
                        .collect();
                    *query = (!kept.is_empty()).then(|| kept.join("&"));
                }
            }
        }
    }

    /// Puts the credential in, after [`Credential::clear`].
    pub fn inject(&self, headers: &mut HeaderMap, query: &mut Option<String>) {
        match self {
            Self::Header(name, value) => drop(headers.insert(name.clone(), value.clone())),
            Self::Query(name, value) => {
                let before = query.as_ref().map(|q| format!("{q}&")).unwrap_or_default();
                *query = Some(format!("{before}{name}={}", value.as_str()));
            }
        }
    }
}

fn same_header(a: &HeaderName, b: &HeaderName) -> bool {
    let plain = |n: u8| if n == b'_' { b'-' } else { n };
    a.as_str().len() == b.as_str().len()
        && a.as_str().bytes().zip(b.as_str().bytes()).all(|(a, b)| plain(a) == plain(b))
}

/// Whether the key of the `key=value` text `part` is `name`.
fn is_parameter(part: &str, name: &str) -> bool {
    let key = part.split('=').next().unwrap_or_default().as_bytes();
    let mut decoded = Vec::with_capacity(key.len());
    let mut at = 0;
    while let Some(b) = key.get(at) {
        let escape = (*b == b'%').then(|| key.get(at + 1..at + 3)).flatten();
        let byte =
            escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(byte.unwrap_or(*b));
        at += if byte.is_some() { 3 } else { 1 };
    }
    decoded.trim_ascii().eq_ignore_ascii_case(name.as_bytes())
}

/// The token in the form of its scheme.
fn with_scheme(scheme: Scheme, token: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(token.len() * 2 + 16));
    match scheme {
        Scheme::Raw => text.extend_from_slice(token),
        Scheme::Bearer => {
            text.extend_from_slice(b"Bearer ");
            text.extend_from_slice(token);
        }
        Scheme::Basic => {
            text.extend_from_slice(b"Basic ");
            let encoded = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(token));
            text.extend_from_slice(encoded.as_bytes());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(
        header: &str,
        scheme: Scheme,
        token: &str,
    ) -> Result<Credential, CredentialError> {
        Credential::new(
            &Inject { place: Place::Header(header.into()), scheme, token: "T".parse().unwrap() },
            &Secret::new(token.into()),
        )
    }

    fn put(credential: &Credential, headers: &mut HeaderMap) {
        credential.clear(headers, &mut None);
        credential.inject(headers, &mut None);
    }

    #[test]
    fn a_parameter_is_replaced_however_it_is_spelled() {
        let inject = Inject {
            place: Place::Query("key".into()),
            scheme: Scheme::Raw,
            token: "T".parse().unwrap(),
        };
        let credential = Credential::new(&inject, &Secret::new("a b&c=%".into())).unwrap();
        for (sent, want) in [
            (None, "key=a%20b%26c%3D%25"),
            (Some("x=1"), "x=1&key=a%20b%26c%3D%25"),
            (Some("key=mine&x=1&KEY=mine&k%65y=mine&%6bey"), "x=1&key=a%20b%26c%3D%25"),
            (Some("a=1;key=mine"), "key=a%20b%26c%3D%25"),
            (Some("monkey=1&keys=2"), "monkey=1&keys=2&key=a%20b%26c%3D%25"),
        ] {
            let mut query = sent.map(str::to_owned);
            credential.clear(&mut HeaderMap::new(), &mut query);
            credential.inject(&mut HeaderMap::new(), &mut query);
            assert_eq!(query.as_deref(), Some(want), "{sent:?}");
        }
    }

    #[test]
    fn injection_replaces_every_spelling_and_hides_itself() {
        let mut h = HeaderMap::new();
        h.append("x-api-key", "guest1".parse().unwrap());
        h.append("x-api-key", "guest2".parse().unwrap());
        h.append("x_api_key", "guest3".parse().unwrap());
        put(&credential("x-api-key", Scheme::Raw, "real").unwrap(), &mut h);
        assert_eq!(h.len(), 1);
        assert_eq!(h["x-api-key"], "real");
        assert!(!format!("{h:?}").contains("real"));
    }

    #[test]
    fn schemes_are_written_as_defined() {
        for (scheme, want) in
            [(Scheme::Raw, "u:p"), (Scheme::Bearer, "Bearer u:p"), (Scheme::Basic, "Basic dTpw")]
        {
            let mut h = HeaderMap::new();
            put(&credential("authorization", scheme, "u:p").unwrap(), &mut h);
            assert_eq!(h["authorization"], want);
        }
    }

    #[test]
    fn headers_of_the_connection_cannot_be_injected_and_errors_hide_the_value() {
        for header in [
            "host",
            "Connection",
            "content-length",
            "transfer-encoding",
            "proxy-authorization",
            "a b",
        ] {
            assert!(
                matches!(credential(header, Scheme::Raw, "x"), Err(CredentialError::Header(_))),
                "{header}"
            );
        }
        let e = credential("authorization", Scheme::Bearer, "sec\r\nret").err().unwrap();
        assert!(!e.to_string().contains("sec") && !format!("{e:?}").contains("sec"));
    }
}
