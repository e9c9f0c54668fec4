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

    /// Reads a policy file's text.
    ///
    /// # Errors
    /// One line that names line, column and key.
    pub fn from_json(text: &[u8]) -> Result<Self, PolicyTextError> {
        PolicyTextError::read(text)
    }

    /// SHA-256 (lower hex) of the canonical JSON: the policy's identity in proposals and preflight.
    #[must_use]
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(Sha256::digest(json))
    }
}

/// Why a text is no policy.
#[derive(Debug, thiserror::Error)]
#[error("line {line}, column {column}, key {key}: {why}")]
pub struct PolicyTextError {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// Such as `routes[2].host`; `.` for the whole.
    pub key: String,
    /// What is wrong there.
    pub why: String,
}

impl PolicyTextError {
    /// Reads the JSON text of a policy.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, Self> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let read = serde_path_to_error::deserialize(&mut json)
            .map_err(|e| Self::new(&e.path().to_string(), e.inner()))?;
        json.end().map_err(|e| Self::new(".", &e))?;
        Ok(read)
    }

    fn new(key: &str, e: &serde_json::Error) -> Self {
        let why = e.to_string();
        let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why).to_owned();
        Self { line: e.line(), column: e.column(), key: key.to_owned(), why }
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
    /// Whether `*.suffix` also means the suffix itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub apex: bool,
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
    /// No interception: the tunnel's TLS goes through as it is, if it names this host. Excludes
    /// methods, paths, inject, ca, `max_body` and scanning, none of which can be enforced then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub passthrough: bool,
    /// Whether the upstream may be at a private, loopback or link-local address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_private: bool,
    /// Connect here instead of resolving the host (like curl's `--connect-to`); TLS still verifies
    /// `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<SocketAddr>,
    /// PEM of further CAs that this route's upstream may be signed by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// What is looked for in requests and responses, and what a find does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scan: Scan,
    /// Largest body of one request, bytes; absent: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<u64>,
    /// Most bytes of all requests, and of all responses, of this launch.
    #[serde(default, skip_serializing_if = "is_default")]
    pub budget: Budget,
    /// Most requests in a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl Route {
    /// Any request over TLS to port 443 of `host`, scanned by the rules' own actions.
    #[must_use]
    pub fn to(name: impl Into<String>, host: HostPattern) -> Self {
        Self {
            name: name.into(),
            host,
            apex: false,
            port: 443,
            methods: Vec::new(),
            paths: Vec::new(),
            inject: None,
            tls: true,
            passthrough: false,
            allow_private: false,
            connect: None,
            ca: None,
            scan: Scan::default(),
            max_body: None,
            budget: Budget::default(),
            rate: None,
        }
    }

    /// Whether a request to `host` (lower case, no trailing dot, no brackets) and `port` is meant.
    #[must_use]
    pub fn names(&self, host: &str, port: u16) -> bool {
        self.port == port
            && (self.host.matches(host)
                || (self.apex && self.host.as_str().strip_prefix("*.") == Some(host)))
    }

    /// What the route asks for that passthrough cannot enforce; empty when there is nothing of the
    /// kind.
    #[must_use]
    pub fn passthrough_conflicts(&self) -> Vec<&'static str> {
        let all = [
            ("methods", !self.methods.is_empty()),
            ("paths", !self.paths.is_empty()),
            ("inject", self.inject.is_some()),
            ("ca", self.ca.is_some()),
            ("max_body", self.max_body.is_some()),
            ("scan", self.scan != Scan::default()),
            ("tls = false", !self.tls),
        ];
        if self.passthrough {
            all.iter().filter(|(_, is)| *is).map(|(key, _)| *key).collect()
        } else {
            Vec::new()
        }
    }
}

fn https_port() -> u16 {
    443
}

fn yes() -> bool {
    true
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a find of the scanner does to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nothing.
    Off,
    /// A line in the audit log.
    Warn,
    /// What was found is overwritten with `*`; where that cannot be done (a compressed body), as
    /// `Block`.
    Redact,
    /// The request is refused, or cut off before what was found has left.
    Block,
}

/// Scanning of one route. Secrets that the bundle itself holds are always looked for, and always
/// block.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// Most that any rule may do; absent: each rule's own action. `warn` turns every block into a
    /// line, `off` switches the rules off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Action>,
    /// Actions of single rules, by the rule's id; they win over `limit`.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub rules: std::collections::BTreeMap<String, Action>,
    /// Whether responses are searched for text that tries to instruct the agent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub responses: bool,
}

/// What a route may carry in one launch: bytes of bodies and request targets, and requests; absent:
/// unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// To the upstream, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<u64>,
    /// From the upstream, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<u64>,
    /// Requests, whatever comes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
}

/// So many requests in a time, written `60/m` (or `/s`, `/h`); up to that many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// Requests in the period, at least 1.
    pub requests: u32,
    /// The period, seconds: 1, 60 or 3600.
    pub seconds: u32,
}

/// Why a text is no rate.
#[derive(Debug, thiserror::Error)]
#[error("not a rate: {0:?} (requests per second, minute or hour, such as 10/s, 60/m or 1000/h)")]
pub struct RateError(String);

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (number, unit) = s.split_once('/')?;
            let requests =
                number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())??;
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            (1..=1_000_000).contains(&requests).then_some(Self { requests, seconds })
        };
        read().ok_or_else(|| RateError(s.to_owned()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.seconds {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.requests)
    }
}

impl TryFrom<String> for Rate {
    type Error = RateError;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// A credential added to each request of a route, replacing what the guest sent in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "InjectText", into = "InjectText")]
pub struct Inject {
    /// Where it is written.
    pub place: Place,
    /// How the token becomes the value.
    pub scheme: Scheme,
    /// Name of the token; its value is known to the daemon only.
    pub token: TokenName,
}

/// Where a credential is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The header of this name, lower case.
    Header(String),
    /// The query parameter of this name.
    Query(String),
}

/// [`Inject`] as it is written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<String>,
    #[serde(default)]
    scheme: Scheme,
    token: TokenName,
}

impl TryFrom<InjectText> for Inject {
    type Error = &'static str;
    fn try_from(text: InjectText) -> Result<Self, Self::Error> {
        let place = match (text.header, text.query) {
            (Some(header), None) => Place::Header(header),
            (None, Some(query)) => Place::Query(query),
            _ => return Err("inject needs exactly one of header and query"),
        };
        Ok(Self { place, scheme: text.scheme, token: text.token })
    }
}

impl From<Inject> for InjectText {
    fn from(inject: Inject) -> Self {
        let (header, query) = match inject.place {
            Place::Header(name) => (Some(name), None),
            Place::Query(name) => (None, Some(name)),
        };
        Self { header, query, scheme: inject.scheme, token: inject.token }
    }
}

/// How a token is written into its place.
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

/// A lower-case ASCII DNS name (or IP literal), or `*.suffix`, which matches any name below the
/// suffix but not itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

/// Why a text is no host pattern.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a host: {0:?} (a DNS name such as api.example.com, *.example.com for names below it, or an IP address)"
)]
pub struct HostPatternError(String);

impl HostPattern {
    /// Whether `host` (lower case, no trailing dot, no brackets, no port) is meant.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix("*.") {
            Some(suffix) => {
                host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            None => self.0 == host,
        }
    }

    /// Whether every host that `other` means is meant.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match other.0.strip_prefix("*.") {
            // `*.a.b` is within `*.b`, and not within `a.b`.
            Some(suffix) => self == other || (self.0.starts_with("*.") && self.matches(suffix)),
            None => self.matches(&other.0),
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
                && l.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        let wide = lower.starts_with("*.") && !name.contains('.');
        // A last label of digits only would be read as an IPv4 address by some resolvers (WHATWG
        // URL, "ends in a number").
        let numeric = name
            .rsplit('.')
            .next()
            .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()) || l.starts_with("0x"));
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
        let ok = (1..=32).contains(&upper.len())
            && upper.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
            && upper != "CONNECT";
        if ok { Ok(Self(upper)) } else { Err(MethodError(s.to_owned())) }
    }
}

/// An absolute path. As its last segment `*` stands for everything below (`/v1/*` matches `/v1/`
/// and `/v1/a/b`, not `/v10`); elsewhere `*` stands for any part of one segment
/// (`/repos/*/issues`), and `**` for any number of segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(String);

/// Why a text is no path pattern.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a path: {0:?} (it starts with /, has no query, no //, no . or .. segment, no escape, and ** only as a whole segment)"
)]
pub struct PathPatternError(String);

impl PathPattern {
    /// Whether the *normalised* path of a request is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some((pattern, path)) = self.0.strip_prefix('/').zip(path.strip_prefix('/')) else {
            return false;
        };
        if !pattern.contains('*') {
            return pattern == path;
        }
        let mut pattern: Vec<&str> = pattern.split('/').collect();
        if let Some(last) = pattern.last_mut().filter(|last| matches!(**last, "*" | "**")) {
            *last = "*"; // one segment, and then any number
            pattern.push("**");
        }
        let path: Vec<&str> = path.split('/').collect();
        wild(&pattern, &path, |p| *p == "**", |p, s| segment(p, s))
    }

    /// Whether every path that `other` means is meant. Two patterns with stars are told apart only
    /// where this one is "everything below": when in doubt, no.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let below = self
            .0
            .strip_suffix("**")
            .or_else(|| self.0.strip_suffix('*'))
            .filter(|p| p.ends_with('/') && !p.contains('*'));
        self == other
            || below.is_some_and(|p| other.0.starts_with(p))
            || (!other.0.contains('*') && self.matches(&other.0))
    }

    /// The pattern's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn segment(pattern: &str, text: &str) -> bool {
    wild(pattern.as_bytes(), text.as_bytes(), |b| *b == b'*', |a, b| a == b)
}

/// Whether `pattern` matches all of `items`, where an element that `is_star` stands for any number
/// of items. Each star is tried once at each place, so this takes at most `pattern` × `items`
/// steps.
fn wild<P, T>(
    pattern: &[P],
    items: &[T],
    is_star: impl Fn(&P) -> bool,
    same: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut i) = (0, 0);
    let mut retry = None; // the last star, and the item up to which it has taken
    while i < items.len() {
        match pattern.get(p) {
            Some(star) if is_star(star) => {
                retry = Some((p, i));
                p += 1;
            }
            Some(plain) if same(plain, &items[i]) => {
                p += 1;
                i += 1;
            }
            _ => match retry {
                Some((star, taken)) => {
                    retry = Some((star, taken + 1));
                    p = star + 1;
                    i = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(is_star)
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = s.starts_with('/')
            && s.len() <= 1024
            && s.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\' | b'%'))
            && !s.contains("//")
            && !s
                .split('/')
                .any(|seg| seg == "." || seg == ".." || (seg.contains("**") && seg != "**"));
        if ok { Ok(Self(s.to_owned())) } else { Err(PathPatternError(s.to_owned())) }
    }
}

/// A token's name: upper-case letters, digits, `_`, at most 64 characters. The value never travels
/// with it.
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
        let ok = (1..=64).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !s.as_bytes()[0].is_ascii_digit();
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
        assert!(
            !p.matches("example.com")
                && !p.matches("evilexample.com")
                && !p.matches(".example.com")
        );
    }

    #[test]
    fn hosts_that_resolvers_read_differently_are_refused() {
        for bad in [
            "",
            "*",
            "*.com",
            "a..b",
            "-a.com",
            "1.2.3",
            "0x7f.1",
            "a.0x1",
            "user@a.com",
            "a.com:80",
            "a.com.",
            "ä.com",
            "a b.com",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        assert!(
            "127.0.0.1".parse::<HostPattern>().is_ok()
                && "0:0::1".parse::<HostPattern>().is_ok_and(|p| p.matches("::1"))
        );
    }

    #[test]
    fn path_patterns_match_what_they_say() {
        for (pattern, yes, no) in [
            ("/v1/*", &["/v1/", "/v1/x/y"][..], &["/v1", "/v10/x", "/"][..]),
            ("/*", &["/", "/x", "/x/y"], &[]),
            ("/**", &["/", "/x", "/x/y"], &[]),
            (
                "/repos/*/issues",
                &["/repos/a/issues", "/repos//issues"],
                &["/repos/a/b/issues", "/repos/issues", "/repos/a/issues/1"],
            ),
            (
                "/repos/*/issues/*",
                &["/repos/a/issues/", "/repos/a/issues/1/2"],
                &["/repos/a/issues", "/repos/a/b/issues/1"],
            ),
            ("/a/**/z", &["/a/z", "/a/b/z", "/a/b/c/z", "/a/z/z"], &["/a/b", "/az", "/a/zz"]),
            ("/a/**/y/*", &["/a/y/1", "/a/b/y/1/2", "/a/y/y/"], &["/a/y", "/a/b/1"]),
            ("/x-*.json", &["/x-.json", "/x-1.json"], &["/x-1.jso", "/x-a/b.json", "/x.json"]),
            ("/exact", &["/exact"], &["/exact/", "/exactly"]),
        ] {
            let p: PathPattern = pattern.parse().expect("pattern");
            assert!(yes.iter().all(|path| p.matches(path)), "{pattern} {yes:?}");
            assert!(!no.iter().any(|path| p.matches(path)), "{pattern} {no:?}");
        }
        for bad in ["v1", "/a/../b", "/a//b", "/a%2f", "/a?b", "/a**", "/**a/b", ""] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
        let slow: PathPattern = format!("/{}b", "a*".repeat(200)).parse().expect("pattern");
        assert!(!slow.matches(&format!("/{}", "a".repeat(20_000))), "and in no time");
    }

    #[test]
    fn rates_and_injects_have_one_spelling() {
        for good in ["1/s", "60/m", "1000000/h"] {
            assert_eq!(good.parse::<Rate>().expect("rate").to_string(), good);
        }
        for bad in ["", "0/s", "1", "1/d", "-1/s", "+1/s", "1/ s", "1000001/s", "99999999999/s"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        for text in [
            r#"{"header":"x-key","scheme":"raw","token":"T"}"#,
            r#"{"query":"key","scheme":"raw","token":"T"}"#,
        ] {
            let inject: Inject = serde_json::from_str(text).expect("inject");
            assert_eq!(serde_json::to_string(&inject).expect("text"), text);
        }
        for bad in [
            r#"{"token":"T"}"#,
            r#"{"header":"a","query":"b","token":"T"}"#,
            r#"{"header":"a","token":"T","x":1}"#,
        ] {
            assert!(serde_json::from_str::<Inject>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_policy_is_named_by_line_and_key() {
        for (text, want) in [
            (
                "{\"version\": 1,\n \"routes\": [{\"name\": \"a\", \"host\": \"a b\"}]}",
                "line 2, column 40, key routes[0].host: not a host",
            ),
            (
                "{\"version\": 1, \"routes\": [{\"name\": \"a\", \"hots\": 1}]}",
                "key routes[0].hots: unknown field `hots`",
            ),
            ("{\"version\": 1, \"routes\": []} x", "line 1, column 30, key .: trailing characters"),
            ("", "line 1, column 0, key .: EOF"),
        ] {
            let e = Policy::from_json(text.as_bytes()).expect_err(text).to_string();
            assert!(e.contains(want), "{e}");
        }
    }

    #[test]
    fn an_apex_is_meant_only_when_said() {
        let mut route = Route::to("a", "*.example.com".parse().expect("host"));
        assert!(
            route.names("a.example.com", 443)
                && !route.names("a.example.com", 80)
                && !route.names("example.com", 443)
        );
        route.apex = true;
        assert!(route.names("example.com", 443) && !route.names("evilexample.com", 443));
    }

    #[test]
    fn digest_changes_with_any_route() {
        let route = |port| Route { port, ..Route::to("a", "a.b".parse().expect("host")) };
        assert_ne!(Policy::new(vec![route(443)]).digest(), Policy::new(vec![route(444)]).digest());
    }
}
