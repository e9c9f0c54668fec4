//! Proposals: what an agent may ask of its operator.
//!
//! The types are the check: an [`Ask`] has no place for a credential, a CA or a disabled scanner,
//! and its texts are [`UntrustedText`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::git::{Fingerprint, UpstreamName};
use crate::git_url::GateUrl;
use crate::pattern::{HostPattern, Method, PathPattern};
use crate::proposal_host::unicode_form;
use crate::proposal_risk::{Risk, breadth_risks, host_risks, is_look_alike, is_private};
use crate::ref_pattern::RefPattern;
use crate::route::{Policy, Route};
use crate::text::UntrustedText;

/// Maximum length of a choice, in characters.
pub const MAX_CHOICE_CHARS: usize = 60;
/// Maximum number of choices, of methods and of paths in one proposal.
pub const MAX_ITEMS: usize = 8;

/// A route that an agent asks for. Unlike in a [`Route`], empty methods or paths do not mean all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteAsk {
    /// The host.
    pub host: HostPattern,
    /// TCP port.
    pub port: u16,
    /// Methods, 1 to [`MAX_ITEMS`].
    pub methods: Vec<Method>,
    /// Paths, 1 to [`MAX_ITEMS`].
    pub paths: Vec<PathPattern>,
    /// Whether the upstream speaks TLS; if not, plain http.
    pub tls: bool,
}

impl RouteAsk {
    /// Checks the number of methods and paths, and the port.
    ///
    /// # Errors
    /// One line.
    pub fn check(&self) -> Result<(), String> {
        match () {
            () if self.methods.is_empty() || self.methods.len() > MAX_ITEMS => {
                Err(format!("name 1 to {MAX_ITEMS} methods"))
            }
            () if self.paths.is_empty() || self.paths.len() > MAX_ITEMS => {
                Err(format!("name 1 to {MAX_ITEMS} paths (\"/*\" for all)"))
            }
            () if self.port == 0 => Err("a port is 1 to 65535".to_owned()),
            () => Ok(()),
        }
    }

    /// Its risks beside `policy`, the one in force, if any. To approve a risky route, the operator
    /// must type its host.
    #[must_use]
    pub fn risks(&self, policy: &Policy) -> Vec<Risk> {
        let mut risks = host_risks(&self.host, policy);
        if !self.tls {
            risks.push(Risk::PlainHttp);
        }
        risks.extend(breadth_risks(&self.route(String::new()), policy));
        risks
    }

    /// The route that an approval adds to the policy: no credential, default scanning. It opens a
    /// private address only when the host is that address; a name that resolves to a private
    /// address stays closed.
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

    /// Whether `other` allows everything that `self` allows. In doubtful cases the answer is no.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        other.host.covers(&self.host)
            && self.port == other.port
            && self.tls == other.tls
            && self.methods.iter().all(|m| other.methods.contains(m))
            && self.paths.iter().all(|p| other.paths.iter().any(|o| o.covers(p)))
    }

    /// Whether one route of `policy` already allows everything that `self` allows.
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

/// What an agent asks for in a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// A route.
    Route(RouteAsk),
    /// Another repository to fetch from, and branches of it to push to.
    GitUpstream {
        /// Its URL.
        url: GateUrl,
        /// Branches to push to; empty: fetch only.
        branches: Vec<RefPattern>,
    },
    /// More branches to push to, of a repository that the agent has.
    Ref {
        /// The repository.
        upstream: UpstreamName,
        /// Branches.
        branches: Vec<RefPattern>,
    },
    /// Permission to push something that git-gate takes for a secret.
    Finding {
        /// The repository.
        upstream: UpstreamName,
        /// The finding's fingerprint, from the refusal.
        fingerprint: Fingerprint,
    },
    /// A question.
    Question {
        /// The question.
        text: UntrustedText,
        /// Answers to choose from; empty: any answer.
        choices: Vec<UntrustedText>,
    },
}

impl Ask {
    /// The route, if it asks for one.
    #[must_use]
    pub fn route(&self) -> Option<&RouteAsk> {
        if let Self::Route(route) = self { Some(route) } else { None }
    }

    /// Its risks beside `policy`, the routes in force, if any.
    #[must_use]
    pub fn risks(&self, policy: &Policy) -> Vec<Risk> {
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
            Self::Route(route) => route.risks(policy),
            Self::GitUpstream { url, branches } => {
                let alike = is_look_alike(url.host(), policy).then_some(Risk::LookAlike);
                alike.into_iter().chain(broad(branches)).collect()
            }
            Self::Ref { branches, .. } => broad(branches),
            Self::Finding { .. } => vec![Risk::Finding],
            Self::Question { .. } => Vec::new(),
        }
    }

    /// The name that the operator must type to approve a risky proposal: a host or a repository.
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

    /// Whether a later proposal of `other` replaces this one, because it has the same target.
    #[must_use]
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(a), Self::Route(b)) => (&a.host, a.port) == (&b.host, b.port),
            (Self::Ref { upstream: a, .. }, Self::Ref { upstream: b, .. }) => a == b,
            _ => self == other,
        }
    }

    /// One line for lists.
    #[must_use]
    pub fn summary(&self) -> String {
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
        // Both forms: the one that is typed, and the one that people know.
        let readable =
            |host: &str| unicode_form(host).map(|form| format!(" ({form})")).unwrap_or_default();
        match self {
            Self::Route(r) => {
                let scheme = if r.tls { "" } else { "http://" };
                let methods = list(&mut r.methods.iter().map(ToString::to_string));
                format!(
                    "{methods} {scheme}{}:{}{} {}",
                    r.host,
                    r.port,
                    readable(r.host.as_str()),
                    list(&mut r.paths.iter().map(ToString::to_string))
                )
            }
            Self::GitUpstream { url, branches } if branches.is_empty() => {
                format!("fetch {}{}", url.as_str(), readable(url.host()))
            }
            Self::GitUpstream { url, branches } => {
                format!(
                    "fetch {}{}, push {}",
                    url.as_str(),
                    readable(url.host()),
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

/// State of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProposalState {
    /// The operator has not decided yet.
    Pending,
    /// Approved as proposed.
    Approved,
    /// Approved, narrower than proposed.
    Edited,
    /// Denied.
    Denied,
    /// Nobody decided before its deadline or the end of its bottle.
    Expired,
    /// Replaced by a later proposal, or no longer needed under a new policy.
    Superseded,
}

impl ProposalState {
    /// The name that is written to files and shown.
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

/// What an agent is told about its own proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalStatus {
    /// Number of the proposal.
    pub id: u32,
    /// Its state.
    pub state: ProposalState,
    /// One line: the effect, or the operator's reason or answer.
    pub text: String,
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
    fn risks_are_found() {
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
            assert_eq!(
                ask(host, port, &["GET"], &["/"], tls).risks(&Policy::new(vec![])),
                want,
                "{host}"
            );
        }
    }

    #[test]
    fn a_host_is_shown_in_both_forms_and_what_acts_on_a_terminal_is_escaped() {
        let route = |host| Ask::Route(ask(host, 443, &["GET"], &["/x"], true)).summary();
        assert_eq!(route("api.example.com"), "GET api.example.com:443 /x");
        assert_eq!(route("*.xn--mnchen-3ya.de"), "GET *.xn--mnchen-3ya.de:443 (*.münchen.de) /x");
        // U+202E between the letters.
        let backwards = route("xn--evil-wd7a.test");
        assert!(!backwards.contains('\u{202e}'), "{backwards}");
        let url = "https://xn--mnchen-3ya.de/x.git".parse().unwrap();
        let summary = Ask::GitUpstream { url, branches: Vec::new() }.summary();
        assert_eq!(summary, "fetch https://xn--mnchen-3ya.de/x.git (münchen.de)");
    }

    #[test]
    fn main_branches_are_risky() {
        let refs = |b: &str| Ask::Ref {
            upstream: "x".parse().unwrap(),
            branches: vec![b.parse().unwrap()],
        };
        for wide in ["main", "master", "**", "*", "*/x", "release/*", "re*/x"] {
            assert_eq!(refs(wide).risks(&Policy::new(vec![])), [Risk::Branches], "{wide}");
        }
        for narrow in ["topic/*", "{agent}/*", "fix-1"] {
            assert!(refs(narrow).risks(&Policy::new(vec![])).is_empty(), "{narrow}");
        }
        assert_eq!(refs("main").name_to_type().as_deref(), Some("x"));
    }

    #[test]
    fn a_route_that_is_already_allowed_is_found() {
        let route = Route {
            paths: vec!["/v1/*".parse().unwrap()],
            ..Route::to("a", "api.example.com".parse().unwrap())
        };
        let policy = Policy::new(vec![route.clone()]);
        assert!(ask("api.example.com", 443, &["GET"], &["/v1/x"], true).is_allowed_by(&policy));
        assert!(!ask("api.example.com", 443, &["GET"], &["/v2"], true).is_allowed_by(&policy));
        let once = Policy::new(vec![Route {
            budget: crate::limits::Budget { requests: Some(1), ..crate::limits::Budget::default() },
            ..route
        }]);
        assert!(
            !ask("api.example.com", 443, &["GET"], &["/v1/x"], true).is_allowed_by(&once),
            "once is not always"
        );
    }
}
