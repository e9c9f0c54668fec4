//! What an agent may ask of its operator, and the lines between the supervise daemon and its
//! orchestrator.
//!
//! The types are the guard: an [`Ask`] has no place for a credential, an address, a CA or a
//! switched-off scanner, and a [`Said`] holds no character that a terminal or a browser acts on.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    Fingerprint, GateUrl, HostPattern, Method, PathPattern, Policy, RefPattern, Route, UpstreamName,
};

/// Begin of the names of routes that an operator granted to a running bottle. No route of a
/// manifest can be called so.
pub const GRANTED: &str = "proposal:";

/// Longest reason or question, characters.
pub const TEXT_CAP: usize = 500;
/// Longest choice, characters.
pub const CHOICE_CAP: usize = 60;
/// Most choices, methods and paths of one ask.
pub const MOST: usize = 8;

/// Text of an agent: one line, what could act on a terminal or reorder a line is written as
/// `\u{…}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Said(String);

impl Said {
    /// At most `cap` characters of `text`, and `…` when there are more.
    #[must_use]
    pub fn new(text: &str, cap: usize) -> Self {
        let (mut out, mut left, mut marks) = (String::new(), cap, 0);
        for c in text.trim().chars().map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c })
        {
            marks = if is_mark(c) { marks + 1 } else { 0 };
            let escape = acts(c) || marks > 2;
            let width = if escape { c.escape_unicode().count() } else { 1 };
            let Some(rest) = left.checked_sub(width) else {
                out.push('…');
                break;
            };
            left = rest;
            if escape { out.extend(c.escape_unicode()) } else { out.push(c) }
        }
        Self(out)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Said {
    fn from(text: String) -> Self {
        Self::new(&text, TEXT_CAP + 1) // the one for `…`, so that reading what was written changes nothing
    }
}

impl From<Said> for String {
    fn from(said: Said) -> Self {
        said.0
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Marks that pile up on the letter before.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

/// Whether a character is invisible, changes the order of others, or does something.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{e000}'..='\u{f8ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
}

/// A route that an agent asks for. It says what it needs: there is no "all methods" and no "all
/// paths" by saying nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteAsk {
    /// The host.
    pub host: HostPattern,
    /// TCP port.
    pub port: u16,
    /// Methods, at least one.
    pub methods: Vec<Method>,
    /// Paths, at least one.
    pub paths: Vec<PathPattern>,
    /// False: plain http.
    pub tls: bool,
}

/// What makes a route more than one door of one public host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// `*.suffix`: whoever owns a name below it is reached, and names carry data.
    Wildcard,
    /// An address instead of a name.
    Address,
    /// An address of this host or its networks.
    Private,
    /// Anybody on the way can read and change it.
    PlainHttp,
    /// Branches that others build on, or all.
    Branches,
    /// What looks like a secret would leave.
    Finding,
}

impl Risk {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Wildcard => "WILDCARD: every name below it, whoever owns it",
            Self::Address => "ADDRESS: an IP address, not a name",
            Self::Private => "PRIVATE: an address of this machine or its networks",
            Self::PlainHttp => "PLAIN HTTP: anybody on the way can read and change it",
            Self::Branches => "BRANCHES: a main branch, or any",
            Self::Finding => "FINDING: what looks like a secret would be pushed",
        }
    }
}

impl RouteAsk {
    /// What is wrong with its shape, if anything.
    ///
    /// # Errors
    /// One line.
    pub fn check(&self) -> Result<(), String> {
        match () {
            () if self.methods.is_empty() || self.methods.len() > MOST => {
                Err(format!("name 1 to {MOST} methods"))
            }
            () if self.paths.is_empty() || self.paths.len() > MOST => {
                Err(format!("name 1 to {MOST} paths (\"/*\" for all)"))
            }
            () if self.port == 0 => Err("a port is 1 to 65535".to_owned()),
            () => Ok(()),
        }
    }

    /// What makes it wide; empty when nothing does. Who approves a wide one types its host.
    #[must_use]
    pub fn risks(&self) -> Vec<Risk> {
        let address = self.host.as_str().parse::<IpAddr>().ok();
        let all = [
            (Risk::Wildcard, self.host.as_str().starts_with("*.")),
            (Risk::Address, address.is_some()),
            (Risk::Private, address.is_some_and(is_private) || is_local_name(self.host.as_str())),
            (Risk::PlainHttp, !self.tls),
        ];
        all.into_iter().filter(|(_, is)| *is).map(|(risk, _)| risk).collect()
    }

    /// The route that a policy gets for it: no credential, everything scanned. An address says
    /// itself that it is private, so only there does an approval open private addresses; a name
    /// that leads to one stays shut.
    #[must_use]
    pub fn route(&self, name: String) -> Route {
        Route {
            port: self.port,
            methods: self.methods.clone(),
            paths: self.paths.clone(),
            tls: self.tls,
            allow_private: self.host.as_str().parse::<IpAddr>().is_ok_and(is_private),
            ..Route::to(name, self.host.clone())
        }
    }

    /// Whether whatever `self` lets through, `other` does too. When in doubt, no.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        other.host.covers(&self.host)
            && self.port == other.port
            && self.tls == other.tls
            && self.methods.iter().all(|m| other.methods.contains(m))
            && self.paths.iter().all(|p| other.paths.iter().any(|o| o.covers(p)))
    }

    /// Whether one route of `policy` lets all of it through already.
    #[must_use]
    pub fn is_allowed_by(&self, policy: &Policy) -> bool {
        policy.routes.iter().any(|r| {
            let host = r.host.covers(&self.host) || (r.apex && r.names(self.host.as_str(), r.port));
            let plain = r.budget.requests.is_none() && !r.passthrough;
            host && plain
                && r.port == self.port
                && r.tls == self.tls
                && (r.methods.is_empty() || self.methods.iter().all(|m| r.methods.contains(m)))
                && (r.paths.is_empty()
                    || self.paths.iter().all(|p| r.paths.iter().any(|o| o.covers(p))))
        })
    }
}

fn is_local_name(host: &str) -> bool {
    let host = host.trim_start_matches("*.");
    !host.contains('.') && !host.contains(':')
        || ["localhost", "local", "internal", "lan", "home", "corp"]
            .iter()
            .any(|tld| host.rsplit('.').next() == Some(tld))
}

fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b & 0xfe) == 18)
        }
        // Only 2000::/3 is the internet.
        IpAddr::V6(ip) => {
            ip.segments()[0] & 0xe000 != 0x2000
                || ip.segments()[0] == 0x2002
                || ip.segments()[..2] == [0x2001, 0]
        }
    }
}

/// What an agent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// To reach something.
    Route(RouteAsk),
    /// To fetch from another repository, and to push to these branches of it.
    GitUpstream {
        /// Its URL.
        url: GateUrl,
        /// Branches to push to; none: only fetches.
        branches: Vec<RefPattern>,
    },
    /// To push to more branches of a repository that it has.
    Ref {
        /// The repository.
        upstream: UpstreamName,
        /// Branches.
        branches: Vec<RefPattern>,
    },
    /// To push what git-gate takes for a secret.
    Finding {
        /// The repository.
        upstream: UpstreamName,
        /// What the refusal named.
        fingerprint: Fingerprint,
    },
    /// To be told something.
    Question {
        /// The question.
        text: Said,
        /// Answers to choose from; none: any.
        choices: Vec<Said>,
    },
}

impl Ask {
    /// The route, if it asks for one.
    #[must_use]
    pub fn route(&self) -> Option<&RouteAsk> {
        if let Self::Route(route) = self { Some(route) } else { None }
    }

    /// What makes it wide; empty when nothing does.
    #[must_use]
    pub fn risks(&self) -> Vec<Risk> {
        let broad = |branches: &[RefPattern]| {
            let main = |b: &RefPattern| {
                let text = String::from(b.clone());
                let first = text.split('/').next().unwrap_or_default().to_owned();
                first.contains('*')
                    || ["main", "master", "trunk", "develop", "release", "releases"]
                        .contains(&first.as_str())
            };
            if branches.iter().any(main) { vec![Risk::Branches] } else { Vec::new() }
        };
        match self {
            Self::Route(route) => route.risks(),
            Self::GitUpstream { branches, .. } | Self::Ref { branches, .. } => broad(branches),
            Self::Finding { .. } => vec![Risk::Finding],
            Self::Question { .. } => Vec::new(),
        }
    }

    /// What whoever approves it types when it is wide: the host, or the repository.
    #[must_use]
    pub fn name_to_type(&self) -> Option<String> {
        match self {
            Self::Route(route) => Some(route.host.to_string()),
            Self::GitUpstream { url, .. } => Some(url.host().to_owned()),
            Self::Ref { upstream, .. } | Self::Finding { upstream, .. } => {
                Some(String::from(upstream.clone()))
            }
            Self::Question { .. } => None,
        }
    }

    /// Whether a later ask takes the place of this one: the same door, described anew.
    #[must_use]
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(a), Self::Route(b)) => (&a.host, a.port) == (&b.host, b.port),
            (Self::Ref { upstream: a, .. }, Self::Ref { upstream: b, .. }) => a == b,
            _ => self == other,
        }
    }

    /// One line for a list.
    #[must_use]
    pub fn summary(&self) -> String {
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
        match self {
            Self::Route(r) => {
                let scheme = if r.tls { "" } else { "http://" };
                let methods = list(&mut r.methods.iter().map(ToString::to_string));
                format!(
                    "{methods} {scheme}{}:{} {}",
                    r.host,
                    r.port,
                    list(&mut r.paths.iter().map(ToString::to_string))
                )
            }
            Self::GitUpstream { url, branches } if branches.is_empty() => {
                format!("fetch {}", url.as_str())
            }
            Self::GitUpstream { url, branches } => {
                format!(
                    "fetch {}, push {}",
                    url.as_str(),
                    list(&mut branches.iter().map(ToString::to_string))
                )
            }
            Self::Ref { upstream, branches } => {
                format!("push {upstream} {}", list(&mut branches.iter().map(ToString::to_string)))
            }
            Self::Finding { upstream, fingerprint } => {
                format!("push to {upstream} in spite of finding {fingerprint}")
            }
            Self::Question { text, .. } => format!("asks: {text}"),
        }
    }
}

/// Where a proposal is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProposalState {
    /// Nobody has decided.
    Pending,
    /// As asked.
    Approved,
    /// Approved, narrower than asked.
    Edited,
    /// No.
    Denied,
    /// Too late: its time is over, or its bottle.
    Expired,
    /// Another one, or another policy, has taken its place.
    Superseded,
}

impl ProposalState {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Edited => "edited",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
        }
    }
}

/// What an agent is told of a proposal of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalStatus {
    /// Number of the proposal.
    pub id: u32,
    /// Where it is.
    pub state: ProposalState,
    /// One line: what holds now, or the operator's reason or answer.
    pub text: String,
}

/// What the supervise daemon says on its standard output after `ready`, one JSON line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SuperviseReport {
    /// The agent asks. Answered by [`SuperviseCommand::Filed`] with the same `call`.
    Draft {
        /// The daemon's own number for it.
        call: u64,
        /// What for.
        ask: Ask,
        /// Why.
        reason: Said,
    },
}

/// What the daemon is told, one JSON line each, on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SuperviseCommand {
    /// What became of a draft.
    Filed {
        /// The draft's `call`.
        call: u64,
        /// The proposal, or why there is none.
        answer: Result<ProposalStatus, String>,
    },
    /// A proposal has changed.
    Changed(ProposalStatus),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(host: &str, port: u16, methods: &[&str], paths: &[&str], tls: bool) -> RouteAsk {
        let methods = methods.iter().map(|m| m.parse().unwrap()).collect();
        RouteAsk {
            host: host.parse().unwrap(),
            port,
            methods,
            paths: paths.iter().map(|p| p.parse().unwrap()).collect(),
            tls,
        }
    }

    #[test]
    fn what_an_agent_says_acts_on_nothing() {
        for (text, want) in [
            ("plain ünïcode 日本", "plain ünïcode 日本"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\tc", "a b c"),
            ("x\u{202e}gpj.exe", "x\\u{202e}gpj.exe"),
            ("a\u{200b}b\u{ad}c\u{e0041}", "a\\u{200b}b\\u{ad}c\\u{e0041}"),
            ("z\u{301}\u{301}\u{301}", "z\u{301}\u{301}\\u{301}"),
        ] {
            assert_eq!(Said::new(text, TEXT_CAP).as_str(), want);
        }
        let long = Said::new(&"x".repeat(10_000), TEXT_CAP);
        assert_eq!(long.as_str().chars().count(), TEXT_CAP + 1);
        let again: Said = serde_json::from_str(&serde_json::to_string(&long).unwrap()).unwrap();
        assert_eq!(again, long);
        let raw: Said = serde_json::from_str("\"a\\u001b[31m\"").unwrap();
        assert_eq!(raw.as_str(), "a\\u{1b}[31m", "not even a file that somebody wrote holds more");
    }

    #[test]
    fn an_edit_is_never_wider() {
        let shown = ask("*.example.com", 443, &["GET", "POST"], &["/v1/*", "/x"], true);
        for narrower in [
            ask("*.example.com", 443, &["GET"], &["/v1/*"], true),
            ask("a.example.com", 443, &["GET", "POST"], &["/v1/a", "/x"], true),
            ask("*.b.example.com", 443, &["POST"], &["/v1/a/*/c", "/v1/**"], true),
        ] {
            assert!(narrower.is_within(&shown), "{narrower:?}");
        }
        for wider in [
            ask("*.example.org", 443, &["GET"], &["/x"], true),
            ask("example.com", 443, &["GET"], &["/x"], true),
            ask("*.example.com", 8443, &["GET"], &["/x"], true),
            ask("*.example.com", 443, &["DELETE"], &["/x"], true),
            ask("*.example.com", 443, &["GET"], &["/*"], true),
            ask("*.example.com", 443, &["GET"], &["/x/*"], true),
            ask("*.example.com", 443, &["GET"], &["/v1"], true),
            ask("*.example.com", 443, &["GET"], &["/*/v1"], true),
            ask("*.example.com", 443, &["GET"], &["/x"], false),
        ] {
            assert!(!wider.is_within(&shown), "{wider:?}");
        }
        let (host, below) = (
            ask("a.test", 443, &["GET"], &["/x"], true),
            ask("*.a.test", 443, &["GET"], &["/x"], true),
        );
        assert!(
            !below.is_within(&host) && !host.is_within(&below),
            "all names below a host are not the host"
        );
    }

    #[test]
    fn what_is_wide_is_known() {
        for (host, port, tls, want) in [
            ("api.example.com", 443, true, &[][..]),
            ("*.example.com", 443, true, &[Risk::Wildcard]),
            ("93.184.216.34", 443, true, &[Risk::Address]),
            ("10.0.0.1", 443, true, &[Risk::Address, Risk::Private]),
            ("169.254.169.254", 80, false, &[Risk::Address, Risk::Private, Risk::PlainHttp]),
            ("::1", 443, true, &[Risk::Address, Risk::Private]),
            ("::ffff:127.0.0.1", 443, true, &[Risk::Address, Risk::Private]),
            ("localhost", 443, true, &[Risk::Private]),
            ("metadata.google.internal", 80, false, &[Risk::Private, Risk::PlainHttp]),
            ("example.com", 80, false, &[Risk::PlainHttp]),
        ] {
            assert_eq!(ask(host, port, &["GET"], &["/"], tls).risks(), want, "{host}");
        }
    }

    #[test]
    fn main_branches_and_findings_are_wide() {
        let refs = |b: &str| Ask::Ref {
            upstream: "x".parse().unwrap(),
            branches: vec![b.parse().unwrap()],
        };
        for wide in ["main", "master", "**", "*", "*/x", "release/*", "re*/x"] {
            assert_eq!(refs(wide).risks(), [Risk::Branches], "{wide}");
        }
        for narrow in ["topic/*", "{agent}/*", "fix-1"] {
            assert!(refs(narrow).risks().is_empty(), "{narrow}");
        }
        assert_eq!(refs("main").name_to_type().as_deref(), Some("x"));
    }

    #[test]
    fn what_is_allowed_already_is_known() {
        let route = Route {
            paths: vec!["/v1/*".parse().unwrap()],
            ..Route::to("a", "api.example.com".parse().unwrap())
        };
        let policy = Policy::new(vec![route.clone()]);
        assert!(ask("api.example.com", 443, &["GET"], &["/v1/x"], true).is_allowed_by(&policy));
        assert!(!ask("api.example.com", 443, &["GET"], &["/v2"], true).is_allowed_by(&policy));
        let once = Policy::new(vec![Route {
            budget: crate::Budget { requests: Some(1), ..crate::Budget::default() },
            ..route
        }]);
        assert!(
            !ask("api.example.com", 443, &["GET"], &["/v1/x"], true).is_allowed_by(&once),
            "once is not always"
        );
    }
}
