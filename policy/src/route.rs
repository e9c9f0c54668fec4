//! Routes: the only things an agent can reach through egress.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::json::{self, PolicyTextError, is_default};
use crate::limits::{Budget, Rate, Scan, Timeouts};
use crate::pattern::{HostPattern, Method, PathPattern, TokenName};

/// What an egress daemon enforces. A request that no route allows is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Format version, 1.
    pub version: u32,
    /// Routes in order; the first match decides.
    pub routes: Vec<Route>,
}

impl Policy {
    /// A version 1 policy with these routes.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self { version: 1, routes }
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// One line that names line, column and key.
    pub fn from_json(text: &[u8]) -> Result<Self, PolicyTextError> {
        json::read(text)
    }

    /// SHA-256 (lower hex) of the policy's JSON: its identity in proposals and in the preflight.
    #[must_use]
    pub fn digest(&self) -> String {
        json::digest(self)
    }
}

/// One allowed destination, and what is done to requests on their way there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Name in audit lines, unique in the policy.
    pub name: String,
    /// Host that the request must name.
    pub host: HostPattern,
    /// Whether `*.suffix` also matches the suffix itself.
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
    /// Whether the upstream speaks TLS. Plain http needs an explicit `tls = false`.
    #[serde(default = "enabled")]
    pub tls: bool,
    /// Whether a request may become a WebSocket.
    #[serde(default = "enabled", skip_serializing_if = "is_enabled")]
    pub websocket: bool,
    /// No interception: a tunnel whose TLS names this host goes through unchanged. Excludes
    /// methods, paths, inject, ca, `max_body`, `timeout.first_byte` and scanning, because they need
    /// interception.
    #[serde(default, skip_serializing_if = "is_default")]
    pub passthrough: bool,
    /// Whether the upstream may be at a private, loopback or link-local address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_private: bool,
    /// Connect here instead of resolving the host (like curl's `--connect-to`); TLS still verifies
    /// `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<SocketAddr>,
    /// PEM of additional CAs that may sign the upstream's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// What the scanner does with findings in requests and responses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scan: Scan,
    /// Largest body of one request, bytes; absent: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<u64>,
    /// Limits for all requests and responses of this launch together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub budget: Budget,
    /// Maximum number of requests in a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Times after which a request is given up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeout: Timeouts,
}

impl Route {
    /// A route for every request over TLS to port 443 of `host`, with default scanning.
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
            websocket: true,
            passthrough: false,
            allow_private: false,
            connect: None,
            ca: None,
            scan: Scan::default(),
            max_body: None,
            budget: Budget::default(),
            rate: None,
            timeout: Timeouts::default(),
        }
    }

    /// Whether the route matches `host` (lower case, no trailing dot, no brackets) and `port`.
    #[must_use]
    pub fn names(&self, host: &str, port: u16) -> bool {
        self.port == port
            && (self.host.matches(host)
                || (self.apex && self.host.as_str().strip_prefix("*.") == Some(host)))
    }

    /// Keys of this route that passthrough cannot enforce; empty without passthrough.
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
            ("websocket = false", !self.websocket),
            ("timeout.first_byte", self.timeout.first_byte.is_some()),
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

fn enabled() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_enabled(value: &bool) -> bool {
    *value
}

/// A credential that the proxy adds to each request of a route, in place of any that the guest
/// sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "InjectText", into = "InjectText")]
pub struct Inject {
    /// Where the credential is written.
    pub place: Place,
    /// How the token becomes the value.
    pub scheme: Scheme,
    /// Name of the token. Only the daemon knows its value.
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

/// [`Inject`] in JSON.
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

/// How a token becomes the value of its header or parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// The token itself.
    #[default]
    Raw,
    /// `Bearer TOKEN`.
    Bearer,
    /// `Basic base64(TOKEN)`; the token is `user:password`.
    Basic,
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_apex_matches_only_when_enabled() {
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
