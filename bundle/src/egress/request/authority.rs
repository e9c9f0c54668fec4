//! `host:port` in normal form.

use std::fmt;
use std::net::IpAddr;

use bottle_policy::HostPattern;

use crate::egress::refusal::{Refusal, Rule};

/// A host and port in the spelling that policies use: lower case, no trailing dot, addresses as
/// Rust prints them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// DNS name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Authority {
    /// Parses `host:port`, `[v6]:port`, or either without a port if there is a default.
    ///
    /// # Errors
    /// [`Rule::Userinfo`] or [`Rule::Authority`].
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, Refusal> {
        let bad = |why: &str| {
            Refusal::new(Rule::Authority, format!("{text:?} is no host and port: {why}"))
        };
        if text.contains('@') {
            return Err(Refusal::new(
                Rule::Userinfo,
                "there is a user name or password before the host",
            ));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(|| bad("no closing bracket"))?;
                let port = if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or_else(|| bad("text after the bracket"))?)
                };
                if !matches!(host.parse(), Ok(IpAddr::V6(_))) {
                    return Err(bad("brackets hold an IPv6 address"));
                }
                (host, port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match (port, default_port) {
            (Some(p), _) if (1..=5).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()) => {
                p.parse().ok().filter(|p| *p != 0).ok_or_else(|| bad("ports are 1 to 65535"))?
            }
            (None, Some(p)) => p,
            _ => return Err(bad("no port")),
        };
        // The policy's own parser reads the host, so that both sides of a comparison have the same
        // spelling.
        let pattern: HostPattern = host.parse().map_err(|_| bad("not a DNS name or IP address"))?;
        if pattern.as_str().starts_with("*.") {
            return Err(bad("a wildcard is no host"));
        }
        Ok(Self { host: pattern.as_str().to_owned(), port })
    }

    /// The host as an IP address, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The value of a Host header, without the port if that is `default_port`.
    #[must_use]
    pub fn host_header(&self, default_port: u16) -> String {
        match (self.ip(), self.port == default_port) {
            (Some(IpAddr::V6(ip)), true) => format!("[{ip}]"),
            (_, true) => self.host.clone(),
            (_, false) => self.to_string(),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_one_spelling() {
        for (text, want) in [
            ("API.Example.com:443", "api.example.com:443"),
            ("[0:0::1]:8443", "[::1]:8443"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("a.example", "a.example:443"),
            ("[::1]", "[::1]:443"),
        ] {
            assert_eq!(Authority::parse(text, Some(443)).unwrap().to_string(), want);
        }
    }

    #[test]
    fn spellings_that_programs_read_differently_are_refused() {
        for text in [
            "",
            ":443",
            "a.com:",
            "a.com:0",
            "a.com:65536",
            "a.com:+80",
            "a.com:80:80",
            "a.com.:443",
            "127.1:80",
            "0x7f000001:80",
            "2130706433:80",
            "0177.0.0.1:80",
            "[::1:80",
            "[::1]80",
            "[1.2.3.4]:80",
            "::1:80",
            "[fe80::1%eth0]:80",
            "a b:80",
            "a.com/:80",
            "a.com#:80",
            "*.a.com:443",
            "a\\.com:443",
            "\u{e4}.com:443",
            "a.com%2e:443",
        ] {
            assert!(Authority::parse(text, None).is_err(), "{text}");
        }
        assert_eq!(Authority::parse("u:p@a.com:443", None).unwrap_err().rule, Rule::Userinfo);
    }
}
