//! Headers that are not passed on.

use bottle_scan::{Direction, Profile};
use http::header::{CONNECTION, COOKIE, HeaderMap, HeaderName, HeaderValue, TE};

use crate::egress::audit::RequestAudit;
use crate::egress::refusal::Checks;

/// Headers that belong to one connection (RFC 9110 section 7.6.1), and Expect, which the proxy
/// answers itself.
pub const HOP_BY_HOP: &[&str] = &[
    "connection",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Removes the headers that belong to one connection: the known names, those that Connection lists,
/// and `Proxy-*`.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    let proxy: Vec<HeaderName> =
        headers.keys().filter(|n| n.as_str().starts_with("proxy-")).cloned().collect();
    for name in listed.iter().chain(&proxy) {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(*name);
    }
}

/// Whether the sender accepts trailers (`TE: trailers`).
#[must_use]
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|v| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Joins Cookie headers into one: HTTP/2 may split them, HTTP/1.1 may not (RFC 9113 section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1 {
        // Parts of header values joined by `; ` are a header value.
        if let Ok(one) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(COOKIE, one);
        }
    }
}

/// Removes response headers in which the upstream repeats one of the bundle's secrets.
pub fn hide_secrets(headers: &mut HeaderMap, profile: &Profile, audit: &RequestAudit) {
    let mut repeated = Vec::new();
    for (name, value) in headers.iter() {
        let found = profile.text(Direction::Response, value.as_bytes());
        if found.iter().any(|f| f.secret.is_some()) {
            repeated.push(name.clone());
        }
        // Nothing blocks here, because the header is removed.
        let _ = audit.meter().note(&format!("response header {name}"), &found, &Checks::default());
    }
    for name in repeated {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
