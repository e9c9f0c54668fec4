//! Host names, methods, paths and token names, as routes use them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::string_type::string_type;

string_type!(
    HostPattern: HostPatternError,
    Method: MethodError,
    PathPattern: PathPatternError,
    TokenName: TokenNameError
);

/// A lower-case ASCII DNS name, an IP literal, or `*.suffix`, which matches every name below the
/// suffix but not the suffix itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

/// Why a text is not a host pattern.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a host: {0:?} (a DNS name such as api.example.com, *.example.com for names below it, or an IP address)"
)]
pub struct HostPatternError(String);

impl HostPattern {
    /// Whether the pattern matches `host` (lower case, no trailing dot, no brackets, no port).
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix("*.") {
            Some(suffix) => {
                host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            None => self.0 == host,
        }
    }

    /// Whether the pattern matches every host that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match other.0.strip_prefix("*.") {
            // `*.b` covers `*.a.b`; `a.b` does not.
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
        let top_level = lower.starts_with("*.") && !name.contains('.');
        // Some resolvers read a name whose last label is a number as an IPv4 address (WHATWG URL,
        // "ends in a number").
        let numeric = name
            .rsplit('.')
            .next()
            .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()) || l.starts_with("0x"));
        if name.len() > 253 || top_level || numeric || !name.split('.').all(label_ok) {
            return Err(bad());
        }
        Ok(Self(lower))
    }
}

/// An upper-case HTTP method token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

/// Why a text is not a method.
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

/// An absolute path with wildcards. A `*` that is the last segment matches everything below
/// (`/v1/*` matches `/v1/` and `/v1/a/b`, not `/v10`). Elsewhere `*` matches any part of one
/// segment (`/repos/*/issues`), and `**` any number of segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(String);

/// Why a text is not a path pattern.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a path: {0:?} (it starts with /, has no query, no //, no . or .. segment, no escape, and ** only as a whole segment)"
)]
pub struct PathPatternError(String);

impl PathPattern {
    /// Whether the pattern matches `path`, which must be decoded.
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
            *last = "*"; // one segment, followed by any number
            pattern.push("**");
        }
        let path: Vec<&str> = path.split('/').collect();
        wildcard(&pattern, &path, |p| *p == "**", |p, s| matches_wildcard(p, s))
    }

    /// Whether the pattern matches every path that `other` matches. A pattern with wildcards is
    /// covered only by an equal one or by "everything below"; in all other cases the answer is no.
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

/// Whether `pattern`, in which `*` matches any characters, matches all of `text`.
pub(crate) fn matches_wildcard(pattern: &str, text: &str) -> bool {
    wildcard(pattern.as_bytes(), text.as_bytes(), |b| *b == b'*', |a, b| a == b)
}

/// Whether `pattern` matches all of `items`; an element that `is_star` matches any number of items.
/// Takes at most `pattern.len() * items.len()` steps.
fn wildcard<P, T>(
    pattern: &[P],
    items: &[T],
    is_star: impl Fn(&P) -> bool,
    same: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut i) = (0, 0);
    let mut retry = None; // the last star, and where its match ends so far
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
                Some((star, end)) => {
                    retry = Some((star, end + 1));
                    p = star + 1;
                    i = end + 1;
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

/// Name of a token: ASCII letters, digits and `_`, not starting with a digit, at most 64
/// characters. It is never stored together with the token's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenName(String);

/// Why a text is not a token name.
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
    fn path_patterns_match_their_documentation() {
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
        assert!(
            !slow.matches(&format!("/{}", "a".repeat(20_000))),
            "a pathological pattern takes no time"
        );
    }
}
