//! The routes of one policy: the first one that fits a request decides.

use std::collections::HashSet;
use std::sync::Arc;

use bottle_policy::{PathPattern, Policy, Route, Scan, TokenName};
use bottle_scan::{Profile, Scanner};

use super::dns_label::looks_like_data;
use crate::egress::refusal::{Checks, Refusal, Rule};
use crate::egress::request::authority::Authority;
use crate::egress::request::target::Target;
use crate::egress::route::credential::CredentialError;
use crate::egress::route::rules::{LiveCredential, RouteRules};
use crate::egress::route::tokens::Tokens;
use crate::egress::upstream::client::{NoCertificate, Upstream};
use crate::egress::upstream::network::Network;

/// Longest part of a host name or path that a message quotes, bytes.
const MAX_QUOTED_BYTES: usize = 60;
/// Most readings of a path that a message quotes.
const MAX_QUOTED_READINGS: usize = 4;

/// Why a policy cannot be enforced.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Another format.
    #[error("policy version {0} is not known to this program (it knows 1)")]
    Version(u32),
    /// A name twice.
    #[error("two routes are named {0:?}")]
    Name(String),
    /// A token without a value.
    #[error("route {route:?}: token {token} has no value")]
    Token {
        /// The route.
        route: String,
        /// The token's name.
        token: TokenName,
    },
    /// A credential that cannot be a header.
    #[error("route {route:?}: {source}")]
    Credential {
        /// The route.
        route: String,
        /// Why.
        source: CredentialError,
    },
    /// A scan rule that does not exist.
    #[error("route {route:?}: there is no scan rule {rule:?}")]
    Rule {
        /// The route.
        route: String,
        /// The rule's id.
        rule: String,
    },
    /// Passthrough with what it cannot enforce.
    #[error("route {route:?}: passthrough cannot enforce {keys}")]
    Passthrough {
        /// The route.
        route: String,
        /// The keys.
        keys: String,
    },
    /// The same host with and without passthrough.
    #[error("route {0:?} is passthrough, and another route of the same host and port is not")]
    Mixed(String),
    /// `apex` without a wildcard.
    #[error("route {0:?}: apex is for hosts such as *.example.com")]
    Apex(String),
    /// A CA that cannot be read.
    #[error("route {0:?}: its ca holds no PEM certificate")]
    Ca(String),
}

/// A route with its connections.
pub struct LiveRoute {
    /// What it allows, injects, searches for and counts.
    pub rules: Arc<RouteRules>,
    /// Its connections.
    pub upstream: Arc<Upstream>,
}

impl LiveRoute {
    /// Binds `route` to its token. Counters, and connections that still fit, are taken from
    /// `before`.
    fn new(
        route: Route,
        tokens: &Tokens,
        scanner: &Arc<Scanner>,
        network: &Arc<Network>,
        before: Option<&LiveRoute>,
    ) -> Result<Self, PolicyError> {
        let conflicts = route.passthrough_conflicts();
        if !conflicts.is_empty() {
            let keys = conflicts.join(", ");
            return Err(PolicyError::Passthrough { route: route.name, keys });
        }
        if route.apex && !route.host.as_str().starts_with("*.") {
            return Err(PolicyError::Apex(route.name));
        }
        let credential = match &route.inject {
            None => None,
            Some(inject) => {
                let name = || route.name.clone();
                let token = tokens.get(&inject.token).ok_or_else(|| PolicyError::Token {
                    route: name(),
                    token: inject.token.clone(),
                })?;
                let credential = LiveCredential::new(inject.clone(), token)
                    .map_err(|source| PolicyError::Credential { route: name(), source })?;
                Some(credential)
            }
        };
        let profile = match &credential {
            Some(_) => scanner.profile(&route.scan),
            None => scanner.profile_elsewhere(&route.scan),
        };
        let profile =
            profile.map_err(|e| PolicyError::Rule { route: route.name.clone(), rule: e.0 })?;
        let upstream = match before.filter(|l| same_upstream(&l.rules.route, &route)) {
            Some(live) => live.upstream.clone(),
            None => {
                let upstream = Upstream::new(&route, network.clone());
                Arc::new(upstream.map_err(|NoCertificate| PolicyError::Ca(route.name.clone()))?)
            }
        };
        let quota = before.map(|l| l.rules.quota.clone()).unwrap_or_default();
        Ok(Self { rules: Arc::new(RouteRules { route, credential, profile, quota }), upstream })
    }
}

/// What a tunnel may carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelUse {
    /// TLS, for routes that are intercepted or passthrough.
    pub tls: bool,
    /// HTTP/1.1 without TLS, for routes with `tls = false`. Some clients (node's fetch) use CONNECT
    /// for http:// too.
    pub plain: bool,
}

/// All routes of one policy.
pub struct Routes {
    all: Vec<Arc<LiveRoute>>,
    secrets: Profile,
}

impl Routes {
    /// Checks `policy` and binds it to the tokens' values. Routes that `old` already has keep their
    /// counters and connections.
    ///
    /// # Errors
    /// Something in the policy cannot be enforced as written.
    pub fn new(
        policy: Policy,
        tokens: &Tokens,
        scanner: &Arc<Scanner>,
        network: &Arc<Network>,
        old: Option<&Routes>,
    ) -> Result<Self, PolicyError> {
        if policy.version != 1 {
            return Err(PolicyError::Version(policy.version));
        }
        let mut names = HashSet::new();
        let mut all: Vec<Arc<LiveRoute>> = Vec::with_capacity(policy.routes.len());
        for route in policy.routes {
            if !names.insert(route.name.clone()) {
                return Err(PolicyError::Name(route.name));
            }
            let before = old.and_then(|old| old.named(&route.name));
            all.push(Arc::new(LiveRoute::new(route, tokens, scanner, network, before)?));
        }
        let mixed = all.iter().map(|l| &l.rules.route).find(|r| {
            let same_host = |o: &Route| o.host == r.host && o.port == r.port;
            let others = || all.iter().map(|l| &l.rules.route);
            r.passthrough && others().any(|o| !o.passthrough && same_host(o))
        });
        if let Some(route) = mixed {
            return Err(PolicyError::Mixed(route.name.clone()));
        }
        let secrets = scanner
            .profile(&Scan::default())
            .map_err(|e| PolicyError::Rule { route: String::new(), rule: e.0 })?;
        Ok(Self { all, secrets })
    }

    /// What must not be written to the log.
    #[must_use]
    pub fn secrets(&self) -> Profile {
        self.secrets.clone()
    }

    /// What is searched for on the route of this name now. That may be more than when a request
    /// began, because the route may carry a newer token.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<Profile> {
        self.named(name).map(|l| l.rules.profile.clone())
    }

    /// The policy as written.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::new(self.all.iter().map(|l| l.rules.route.clone()).collect())
    }

    /// What the routes allow in a tunnel to `to`.
    ///
    /// # Errors
    /// [`Rule::NoRoute`] or [`Rule::DnsLabel`].
    pub fn check_tunnel(&self, to: &Authority, checks: &Checks) -> Result<TunnelUse, Refusal> {
        let (mut named, mut wild) = (false, true);
        let mut allowed = TunnelUse::default();
        for live in self.for_host(to) {
            named = true;
            allowed.tls |= live.rules.route.tls;
            allowed.plain |= !live.rules.route.tls;
            wild &= live.rules.route.host.as_str() != to.host;
        }
        checks.refuse_if(named && wild && looks_like_data(&to.host), Rule::DnsLabel, || {
            format!("the host name {} looks like data, not like a name", shortened(&to.host))
        })?;
        checks
            .refuse_if(!named, Rule::NoRoute, || format!("no route of this bottle names {to}"))
            .map_err(|r| r.hint(route_hint(to, to.port != 80, None)))?;
        Ok(allowed)
    }

    /// The passthrough route of a tunnel to `to`, or `None` if the tunnel is to be intercepted. The
    /// first route that names the host decides.
    #[must_use]
    pub fn passthrough(&self, to: &Authority) -> Option<Arc<LiveRoute>> {
        self.for_host(to).next().filter(|l| l.rules.route.passthrough).cloned()
    }

    /// The route of a request: the first one that allows it.
    ///
    /// # Errors
    /// [`Rule::NoRoute`], [`Rule::WrongScheme`], [`Rule::NotAllowed`], or [`Rule::Path`] if the
    /// path's readings lead to different routes.
    pub fn find(
        &self,
        to: &Authority,
        tls: bool,
        method: &str,
        target: &Target,
        checks: &Checks,
    ) -> Result<Arc<LiveRoute>, Refusal> {
        let named: Vec<&Arc<LiveRoute>> = self.for_host(to).collect();
        if named.is_empty() {
            return Err(Refusal::new(Rule::NoRoute, format!("no route of this bottle names {to}"))
                .hint(route_hint(to, tls, None)));
        }
        let wild = named.iter().all(|l| l.rules.route.host.as_str() != to.host);
        checks.refuse_if(wild && looks_like_data(&to.host), Rule::DnsLabel, || {
            format!("the host name {} looks like data, not like a name", shortened(&to.host))
        })?;
        let fits = |r: &Route| r.tls == tls && !r.passthrough;
        let fitting: Vec<&Arc<LiveRoute>> =
            named.into_iter().filter(|l| fits(&l.rules.route)).collect();
        if fitting.is_empty() {
            let (is, wanted) = if tls { ("https", "http") } else { ("http", "https") };
            return Err(Refusal::new(
                Rule::WrongScheme,
                format!("the route for {to} is for {wanted}, this request is {is}"),
            ));
        }
        if let Some(chosen) = choose(&fitting, to, method, target, checks)? {
            return Ok(Arc::clone(chosen));
        }
        if !checks.enabled(Rule::NotAllowed) {
            return Ok(Arc::clone(fitting[0]));
        }
        let reason = format!("no route for {to} allows {method} {}", target.path);
        let readings = target.readings().unwrap_or_default();
        let path = readings.iter().find(|path| path.parse::<PathPattern>().is_ok());
        let request = (method, path.unwrap_or(&target.path).as_str());
        Err(Refusal::new(Rule::NotAllowed, reason).hint(route_hint(to, tls, Some(request))))
    }

    fn named(&self, name: &str) -> Option<&LiveRoute> {
        self.all.iter().map(Arc::as_ref).find(|l| l.rules.route.name == name)
    }

    fn for_host<'a>(&'a self, to: &'a Authority) -> impl Iterator<Item = &'a Arc<LiveRoute>> {
        self.all.iter().filter(|l| l.rules.route.names(&to.host, to.port))
    }
}

/// The first of `routes` that allows the request, which must be the same for each reading of its
/// path: the upstream gets the path as the guest wrote it, and may read it in any of these ways.
fn choose<'a>(
    routes: &[&'a Arc<LiveRoute>],
    to: &Authority,
    method: &str,
    target: &Target,
    checks: &Checks,
) -> Result<Option<&'a Arc<LiveRoute>>, Refusal> {
    let first = |path: &str| routes.iter().position(|l| l.rules.allows(method, path));
    let by_path = routes.iter().any(|l| !l.rules.route.paths.is_empty());
    if !by_path || target.is_plain() {
        return Ok(first(&target.path).map(|n| routes[n]));
    }
    let mut choices: Vec<(Option<usize>, String)> = Vec::new();
    for reading in target.readings()? {
        let choice = first(&reading);
        if choices.iter().all(|(c, _)| *c != choice) {
            choices.push((choice, reading));
        }
    }
    checks.refuse_if(choices.len() > 1, Rule::Path, || {
        let name = |n: usize| format!("route {}", routes[n].rules.route.name);
        let shown = choices.iter().take(MAX_QUOTED_READINGS).map(|(choice, reading)| {
            let route = choice.map_or_else(|| "no route".to_owned(), name);
            format!("as {:?} ({route})", shortened(reading))
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        format!(
            "servers differ in how they read this path, and the routes for {to} differ: {shown}"
        )
    })?;
    Ok(choices.iter().find_map(|(choice, _)| *choice).map(|n| routes[n]))
}

/// Whether connections may be kept when `old` becomes `new`.
fn same_upstream(old: &Route, new: &Route) -> bool {
    let of = |r: &Route| {
        (r.host.clone(), r.port, r.tls, r.allow_private, r.connect, r.ca.clone(), r.inject.clone())
    };
    of(old) == of(new)
}

fn shortened(text: &str) -> String {
    let mut end = MAX_QUOTED_BYTES.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end < text.len() { format!("{}…", &text[..end]) } else { text.to_owned() }
}

/// The route in bottle.toml that would allow a request, as TOML.
fn route_hint(to: &Authority, tls: bool, request: Option<(&str, &str)>) -> String {
    let mut route = format!("host = \"{}\"", to.host);
    if to.port != 443 {
        route.push_str(&format!(", port = {}", to.port));
    }
    if let Some((method, path)) = request {
        route.push_str(&format!(", methods = [\"{method}\"]"));
        // A path that can be a pattern has no escapes, so `"` is the only character that TOML would
        // need escaped. A `*` would let the guest choose how wide the rule is.
        if path.parse::<PathPattern>().is_ok() && !path.contains(['"', '*']) {
            route.push_str(&format!(", paths = [\"{path}\"]"));
        }
    }
    if !tls {
        route.push_str(", tls = false");
    }
    format!("to allow it, in bottle.toml under [bottles.NAME]: egress = [{{ {route} }}]")
}
