//! Routes: the only things an agent can reach through egress.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A whole policy. Everything that no route allows is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Format version, 1.
    pub version: u32,
    /// Routes, tried in order; the first match decides.
    pub routes: Vec<Route>,
}

impl Policy {
    /// A version 1 policy of these routes.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self { version: 1, routes }
    }

    /// SHA-256 (lower hex) of the canonical JSON: the policy's identity in proposals and preflight.
    #[must_use]
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(Sha256::digest(json))
    }
}

/// One allowed destination and what is done to requests on their way there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Name in audit lines, unique in a policy.
    pub name: String,
    /// Host that the request must name.
    pub host: HostPattern,
    /// TCP port that the request must name.
    #[serde(default = "https_port")]
    pub port: u16,
    /// Allowed methods; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// Allowed paths; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathPattern>,
    /// Credential that the proxy adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<Inject>,
    /// Whether the upstream speaks TLS (plain http needs `tls = false` said out loud).
    #[serde(default = "yes")]
    pub tls: bool,
    /// Whether the upstream may be at a private, loopback or link-local address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_private: bool,
    /// Connect here instead of resolving the host (like curl's `--connect-to`); TLS still verifies `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<SocketAddr>,
    /// PEM of further CAs that this route's upstream may be signed by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

fn https_port() -> u16 {
    443
}

fn yes() -> bool {
    true
}

/// A credential added to each request of a route, replacing what the guest sent under that header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// Header name, lower case.
    pub header: String,
    /// How the token becomes the header's value.
    #[serde(default)]
    pub scheme: Scheme,
    /// Name of the token; its value is known to the daemon only.
    pub token: TokenName,
}

/// How a token is written into a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// The token as it is.
    #[default]
    Raw,
    /// `Bearer TOKEN`.
    Bearer,
    /// `Basic base64(TOKEN)`, the token being `user:password`.
    Basic,
}

/// A lower-case ASCII DNS name (or IP literal), or `*.suffix`, which matches any name below the suffix but not itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

/// Why a text is no host pattern.
#[derive(Debug, thiserror::Error)]
#[error("not a host: {0:?} (a DNS name such as api.example.com, *.example.com for names below it, or an IP address)")]
pub struct HostPatternError(String);

impl HostPattern {
    /// Whether `host` (lower case, no trailing dot, no brackets, no port) is meant.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix("*.") {
            Some(suffix) => host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            None => self.0 == host,
        }
    }

    /// The pattern's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || HostPatternError(s.to_owned());
        let lower = s.to_ascii_lowercase();
        if let Ok(ip) = lower.parse::<std::net::IpAddr>() {
            return Ok(Self(ip.to_string())); // one spelling: `0:0::1` and `::1` are the same host
        }
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        let label_ok = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        let wide = lower.starts_with("*.") && !name.contains('.');
        // A last label of digits only would be read as an IPv4 address by some resolvers (WHATWG URL, "ends in a number").
        let numeric = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()) || l.starts_with("0x"));
        if name.len() > 253 || wide || numeric || !name.split('.').all(label_ok) {
            return Err(bad());
        }
        Ok(Self(lower))
    }
}

/// An upper-case HTTP method token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

/// Why a text is no method.
#[derive(Debug, thiserror::Error)]
#[error("not an HTTP method: {0:?} (such as GET or POST)")]
pub struct MethodError(String);

impl Method {
    /// The method's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let upper = s.to_ascii_uppercase();
        let ok = (1..=32).contains(&upper.len()) && upper.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') && upper != "CONNECT";
        if ok { Ok(Self(upper)) } else { Err(MethodError(s.to_owned())) }
    }
}

/// An absolute path: exact, or a prefix when it ends in `/*` (`/v1/*` matches `/v1/` and below, not `/v10`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(String);

/// Why a text is no path pattern.
#[derive(Debug, thiserror::Error)]
#[error("not a path: {0:?} (it starts with /, has no query, no //, no . or .. segment, no escape, and * only as the last segment)")]
pub struct PathPatternError(String);

impl PathPattern {
    /// Whether the *normalised* path of a request is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => self.0 == path,
        }
    }

    /// The pattern's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let body = s.strip_suffix("/*").map_or(s, |b| if b.is_empty() { "/" } else { b });
        let ok = body.starts_with('/')
            && body.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*' | b'\\' | b'%'))
            && !body.contains("//")
            && !body.split('/').any(|seg| seg == "." || seg == "..");
        if ok { Ok(Self(s.to_owned())) } else { Err(PathPatternError(s.to_owned())) }
    }
}

/// A token's name: upper-case letters, digits, `_`, at most 64 characters. The value never travels with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenName(String);

/// Why a text is no token name.
#[derive(Debug, thiserror::Error)]
#[error("not a token name: {0:?} (letters, digits and _, such as GITHUB_TOKEN)")]
pub struct TokenNameError(String);

impl TokenName {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = TokenNameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok =
            (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !s.as_bytes()[0].is_ascii_digit();
        if ok { Ok(Self(s.to_owned())) } else { Err(TokenNameError(s.to_owned())) }
    }
}

macro_rules! text {
    ($($t:ty: $e:ty),*) => {$(
        impl TryFrom<String> for $t {
            type Error = $e;
            fn try_from(s: String) -> Result<Self, Self::Error> { s.parse() }
        }
        impl From<$t> for String {
            fn from(v: $t) -> Self { v.0 }
        }
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    )*};
}
text!(HostPattern: HostPatternError, Method: MethodError, PathPattern: PathPatternError, TokenName: TokenNameError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffix_pattern_does_not_match_its_apex_or_a_lookalike() {
        let p: HostPattern = "*.example.com".parse().expect("pattern");
        assert!(p.matches("a.example.com") && p.matches("a.b.example.com"));
        assert!(!p.matches("example.com") && !p.matches("evilexample.com") && !p.matches(".example.com"));
    }

    #[test]
    fn hosts_that_resolvers_read_differently_are_refused() {
        for bad in ["", "*", "*.com", "a..b", "-a.com", "1.2.3", "0x7f.1", "a.0x1", "user@a.com", "a.com:80", "a.com.", "ä.com", "a b.com"]
        {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        assert!("127.0.0.1".parse::<HostPattern>().is_ok() && "0:0::1".parse::<HostPattern>().is_ok_and(|p| p.matches("::1")));
    }

    #[test]
    fn path_prefix_ends_at_a_segment() {
        let p: PathPattern = "/v1/*".parse().expect("pattern");
        assert!(p.matches("/v1/") && p.matches("/v1/x/y"));
        assert!(!p.matches("/v1") && !p.matches("/v10/x"));
        for bad in ["v1", "/a/../b", "/a//b", "/a%2f", "/a?b", "/*/a", "/a*"] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
        assert!("/*".parse::<PathPattern>().expect("all").matches("/x"));
    }

    #[test]
    fn digest_changes_with_any_route() {
        let route = |port| Route {
            name: "a".into(),
            host: "a.b".parse().expect("host"),
            port,
            methods: vec![],
            paths: vec![],
            inject: None,
            tls: true,
            allow_private: false,
            connect: None,
            ca: None,
        };
        assert_ne!(Policy::new(vec![route(443)]).digest(), Policy::new(vec![route(444)]).digest());
    }
}
