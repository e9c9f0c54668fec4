//! Headers that are not passed on, and the one that is added.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use zeroize::Zeroizing;

use base64::Engine as _;
use bottle_policy::{Inject, Place, Scheme, Secret};

use super::authority::Authority;

/// Headers of one connection (RFC 9110 section 7.6.1), and Expect, which the server side has answered already.
const HOP: &[&str] =
    &["connection", "expect", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// Removes what belongs to one connection: the known names, those that Connection lists, and `Proxy-*`.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    let proxy: Vec<HeaderName> = headers.keys().filter(|n| n.as_str().starts_with("proxy-")).cloned().collect();
    for name in listed.iter().chain(&proxy) {
        headers.remove(name);
    }
    for name in HOP {
        headers.remove(*name);
    }
}

/// Sets Host to where the request goes.
pub fn set_host(headers: &mut HeaderMap, to: &Authority, default_port: u16) {
    // An Authority is ASCII without controls by construction.
    if let Ok(value) = HeaderValue::from_str(&to.host_header(default_port)) {
        headers.insert(HOST, value);
    }
}

/// A credential, ready to be put into requests. Its memory is wiped when the last copy goes.
#[derive(Clone)]
pub struct Credential {
    name: HeaderName,
    value: HeaderValue,
}

/// Why a credential cannot be a header. Never tells the value.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The header belongs to the connection or to routing.
    #[error("header {0:?} cannot be injected")]
    Header(String),
    /// The value has a character that a header cannot have.
    #[error("the value of token {0} has a line break or another control character")]
    Value(String),
}

/// Bytes that are wiped on drop, in the shape that `Bytes` takes over without a copy.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Credential {
    /// Makes the header that `inject` describes out of `token`.
    ///
    /// # Errors
    /// A header that must not be injected, or a token that is no header value.
    pub fn new(inject: &Inject, token: &Secret) -> Result<Self, CredentialError> {
        let Place::Header(header) = &inject.place else { return Err(CredentialError::Header("?".to_owned())) };
        let bad = || CredentialError::Header(header.clone());
        let name = HeaderName::from_bytes(header.as_bytes()).map_err(|_| bad())?;
        let routing = HOP.contains(&name.as_str()) || name.as_str().starts_with("proxy-");
        if routing || [HOST, http::header::CONTENT_LENGTH].contains(&name) {
            return Err(bad());
        }
        let token = token.expose().as_bytes();
        let mut text = Zeroizing::new(Vec::with_capacity(token.len() * 2 + 16));
        match inject.scheme {
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
        let value: Result<HeaderValue, InvalidHeaderValue> = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(text)));
        let mut value = value.map_err(|_| CredentialError::Value(inject.token.to_string()))?;
        value.set_sensitive(true);
        Ok(Self { name, value })
    }

    /// Puts the credential in, in place of every header of that name. `x_api_key` counts as `x-api-key`, because
    /// CGI-style servers read both as one.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let same = |n: &HeaderName| {
            n.as_str().len() == self.name.as_str().len() && n.as_str().replace('_', "-") == self.name.as_str().replace('_', "-")
        };
        let sent: Vec<HeaderName> = headers.keys().filter(|n| same(n)).cloned().collect();
        for name in sent {
            headers.remove(name);
        }
        headers.insert(self.name.clone(), self.value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(header: &str, scheme: Scheme, token: &str) -> Result<Credential, CredentialError> {
        Credential::new(&Inject { place: Place::Header(header.into()), scheme, token: "T".parse().unwrap() }, &Secret::new(token.into()))
    }

    #[test]
    fn injection_replaces_every_spelling_and_hides_itself() {
        let mut h = HeaderMap::new();
        h.append("x-api-key", "guest1".parse().unwrap());
        h.append("x-api-key", "guest2".parse().unwrap());
        h.append("x_api_key", "guest3".parse().unwrap());
        credential("x-api-key", Scheme::Raw, "real").unwrap().inject(&mut h);
        assert_eq!(h.len(), 1);
        assert_eq!(h["x-api-key"], "real");
        assert!(!format!("{h:?}").contains("real"));
    }

    #[test]
    fn schemes_are_written_as_defined() {
        for (scheme, want) in [(Scheme::Raw, "u:p"), (Scheme::Bearer, "Bearer u:p"), (Scheme::Basic, "Basic dTpw")] {
            let mut h = HeaderMap::new();
            credential("authorization", scheme, "u:p").unwrap().inject(&mut h);
            assert_eq!(h["authorization"], want);
        }
    }

    #[test]
    fn headers_of_the_connection_cannot_be_injected_and_errors_hide_the_value() {
        for header in ["host", "Connection", "content-length", "transfer-encoding", "proxy-authorization", "a b"] {
            assert!(matches!(credential(header, Scheme::Raw, "x"), Err(CredentialError::Header(_))), "{header}");
        }
        let e = credential("authorization", Scheme::Bearer, "sec\r\nret").err().unwrap();
        assert!(!e.to_string().contains("sec") && !format!("{e:?}").contains("sec"));
    }

    #[test]
    fn hop_by_hop_headers_go_and_so_do_those_that_connection_names() {
        let mut h = HeaderMap::new();
        for (k, v) in [
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic x"),
            ("proxy-anything", "y"),
            ("keep-alive", "1"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ] {
            h.append(k, v.parse().unwrap());
        }
        strip_hop_by_hop(&mut h);
        assert_eq!(h.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
