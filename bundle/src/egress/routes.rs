//! The policy, ready for matching: the first route that fits decides.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bottle_policy::{EgressCommand, Inject, PathPattern, Policy, Route, Scan, Secret, TokenName};
use bottle_scan::{Profile, Scanner};

use super::authority::Authority;
use super::headers::{Credential, CredentialError};
use super::path::Target;
use super::refusal::{Guards, Refusal, Rule};
use super::spend::Spend;
use super::tokens::{Token, Tokens};
use super::upstream::{Network, NoCertificate, Upstream};

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

/// A route with its credential, its connections and its counters: nothing of one route is ever used
/// for another.
pub struct LiveRoute {
    /// As written.
    pub route: Route,
    /// What is injected.
    pub credential: Option<LiveCredential>,
    /// Connections.
    pub upstream: Arc<Upstream>,
    /// What is looked for in its requests and responses.
    pub profile: Profile,
    /// What it has carried.
    pub spend: Arc<Spend>,
}

/// A credential that follows its token.
pub struct LiveCredential {
    inject: Inject,
    /// The token.
    pub token: Arc<Token>,
    made: Mutex<(u64, Credential)>,
}

impl LiveCredential {
    fn new(inject: Inject, token: Arc<Token>) -> Result<Self, CredentialError> {
        let (version, value) = token.value();
        let made = Mutex::new((version, Credential::new(&inject, &value)?));
        Ok(Self { inject, token, made })
    }

    /// The credential of the token's present value, and that value's version.
    pub fn now(&self) -> (u64, Credential) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != self.token.version() {
            let (version, value) = self.token.value();
            // A value that fits nowhere leaves the old one, which the upstream refuses.
            match Credential::new(&self.inject, &value) {
                Ok(new) => *made = (version, new),
                Err(e) => tracing::error!("{e}"),
            }
        }
        made.clone()
    }
}

/// The routes in force, and what is needed to put others in their place.
pub struct Live {
    now: RwLock<Arc<Routes>>,
    tokens: Arc<Tokens>,
    network: Arc<Network>,
    /// Every value that a token has had: an old one is a secret still.
    known: Mutex<Vec<(TokenName, Secret)>>,
}

impl Live {
    /// Puts `policy` in force.
    ///
    /// # Errors
    /// What cannot be enforced as written.
    pub fn new(
        policy: Policy,
        tokens: Arc<Tokens>,
        network: Arc<Network>,
    ) -> Result<Self, PolicyError> {
        let known = tokens.secrets();
        let routes = Routes::new(policy, &tokens, &Scanner::new(&known), &network, None)?;
        Ok(Self { now: RwLock::new(Arc::new(routes)), tokens, network, known: Mutex::new(known) })
    }

    /// The routes in force. A request keeps to those that it began with.
    pub fn now(&self) -> Arc<Routes> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another policy in force, from the next request on. Counters and connections of routes
    /// that stay are kept.
    ///
    /// # Errors
    /// What cannot be enforced as written; then the old policy stays.
    pub fn replace(&self, policy: Policy) -> Result<(), PolicyError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(&known, policy)
    }

    /// Whoever has `known` is the only one who changes the routes.
    fn put(&self, known: &[(TokenName, Secret)], policy: Policy) -> Result<(), PolicyError> {
        let old = self.now();
        let new =
            Routes::new(policy, &self.tokens, &Scanner::new(known), &self.network, Some(&old))?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }

    /// Takes a token's new value. It is looked for before it is used for the first time.
    pub fn told(&self, command: EgressCommand) {
        {
            let EgressCommand::Token { name, value } = &command;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(new) = value
                .as_ref()
                .map(|value| (name.clone(), value.clone()))
                .filter(|new| !known.contains(new))
            {
                let current = self.tokens.secrets();
                while known.len() >= KNOWN {
                    let Some(old) = known.iter().position(|k| !current.contains(k)) else { break };
                    known.remove(old);
                }
                known.push(new);
                // The same policy was enforceable before.
                if let Err(e) = self.put(&known, self.now().policy()) {
                    tracing::error!("{e}");
                }
            }
        }
        self.tokens.told(command);
    }
}

/// Secrets that are looked for; with more, old values that are no token's any more are forgotten.
const KNOWN: usize = 64;

/// All routes of one policy.
pub struct Routes {
    all: Vec<Arc<LiveRoute>>,
    secrets: Profile,
}

impl Routes {
    /// Checks `policy` and binds it to the tokens' values.
    fn new(
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
        let mut live = Vec::with_capacity(policy.routes.len());
        for route in policy.routes {
            if !names.insert(route.name.clone()) {
                return Err(PolicyError::Name(route.name));
            }
            let conflicts = route.passthrough_conflicts();
            if !conflicts.is_empty() {
                return Err(PolicyError::Passthrough {
                    route: route.name,
                    keys: conflicts.join(", "),
                });
            }
            if route.apex && !route.host.as_str().starts_with("*.") {
                return Err(PolicyError::Apex(route.name));
            }
            let credential = match &route.inject {
                None => None,
                Some(inject) => {
                    let missing = || PolicyError::Token {
                        route: route.name.clone(),
                        token: inject.token.clone(),
                    };
                    let token = tokens.get(&inject.token).ok_or_else(missing)?;
                    let bad =
                        |source| PolicyError::Credential { route: route.name.clone(), source };
                    Some(LiveCredential::new(inject.clone(), token).map_err(bad)?)
                }
            };
            let profile = match &credential {
                Some(_) => scanner.profile(&route.scan),
                None => scanner.profile_elsewhere(&route.scan),
            };
            let profile =
                profile.map_err(|e| PolicyError::Rule { route: route.name.clone(), rule: e.0 })?;
            let before = old.and_then(|old| old.all.iter().find(|l| l.route.name == route.name));
            let upstream = match before.filter(|l| same_upstream(&l.route, &route)) {
                Some(live) => live.upstream.clone(),
                None => {
                    let upstream = Upstream::new(&route, network.clone());
                    Arc::new(upstream.map_err(|NoCertificate| PolicyError::Ca(route.name.clone()))?)
                }
            };
            let spend = before.map(|l| l.spend.clone()).unwrap_or_default();
            live.push(Arc::new(LiveRoute { route, credential, upstream, profile, spend }));
        }
        let mixed = live.iter().find(|l| {
            l.route.passthrough
                && live.iter().any(|o| {
                    !o.route.passthrough
                        && o.route.host == l.route.host
                        && o.route.port == l.route.port
                })
        });
        if let Some(live) = mixed {
            return Err(PolicyError::Mixed(live.route.name.clone()));
        }
        let secrets = scanner
            .profile(&Scan::default())
            .map_err(|e| PolicyError::Rule { route: String::new(), rule: e.0 })?;
        Ok(Self { all: live, secrets })
    }

    /// What must not be written down anywhere.
    #[must_use]
    pub fn secrets(&self) -> Profile {
        self.secrets.clone()
    }

    /// What is looked for on the route of this name now, whatever it was when a request began: it
    /// may carry a newer token.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<Profile> {
        self.all.iter().find(|l| l.route.name == name).map(|l| l.profile.clone())
    }

    /// As written.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::new(self.all.iter().map(|l| l.route.clone()).collect())
    }

    /// Whether a tunnel to `to` may be opened at all.
    ///
    /// # Errors
    /// [`Rule::NoRoute`], or [`Rule::WrongScheme`] when only plain http is allowed there.
    pub fn check_tunnel(&self, to: &Authority, guards: &Guards) -> Result<(), Refusal> {
        let (mut named, mut tls, mut wild) = (false, false, true);
        for live in self.named(to) {
            named = true;
            tls |= live.route.tls;
            wild &= live.route.host.as_str() != to.host;
        }
        guards.check(named && wild && looks_like_data(&to.host), Rule::DnsLabel, || {
            format!("the host name {} looks like data, not like a name", shortened(&to.host))
        })?;
        guards
            .check(!named, Rule::NoRoute, || format!("no route of this bottle names {to}"))
            .map_err(|r| r.hint(route_hint(to, true, None)))?;
        guards.check(named && !tls, Rule::WrongScheme, || {
            format!("the route for {to} is plain http (tls = false), so not by CONNECT")
        })
    }

    /// The route of a tunnel to `to` that is not to be intercepted, when the first one that names
    /// it says so.
    #[must_use]
    pub fn passthrough(&self, to: &Authority) -> Option<Arc<LiveRoute>> {
        self.named(to).next().filter(|l| l.route.passthrough).cloned()
    }

    /// The route of a request.
    ///
    /// # Errors
    /// [`Rule::NoRoute`], [`Rule::WrongScheme`], [`Rule::NotAllowed`], or [`Rule::Path`] for an
    /// escaped slash on a host whose routes differ by path.
    pub fn find(
        &self,
        to: &Authority,
        tls: bool,
        method: &str,
        target: &Target,
        guards: &Guards,
    ) -> Result<Arc<LiveRoute>, Refusal> {
        let named: Vec<&Arc<LiveRoute>> = self.named(to).collect();
        if named.is_empty() {
            return Err(Refusal::new(Rule::NoRoute, format!("no route of this bottle names {to}"))
                .hint(route_hint(to, tls, None)));
        }
        let wild = named.iter().all(|l| l.route.host.as_str() != to.host);
        guards.check(wild && looks_like_data(&to.host), Rule::DnsLabel, || {
            format!("the host name {} looks like data, not like a name", shortened(&to.host))
        })?;
        let fitting: Vec<&Arc<LiveRoute>> =
            named.into_iter().filter(|l| l.route.tls == tls && !l.route.passthrough).collect();
        if fitting.is_empty() {
            let (is, wanted) = if tls { ("https", "http") } else { ("http", "https") };
            return Err(Refusal::new(
                Rule::WrongScheme,
                format!("the route for {to} is for {wanted}, this request is {is}"),
            ));
        }
        // npm asks for `/@scope%2fname`. Where no route looks at paths there is nothing that it
        // could get past.
        let by_path = fitting.iter().any(|l| !l.route.paths.is_empty());
        guards.check(target.encoded_slash && by_path, Rule::Path, || {
            format!("the path has an escaped slash, and the routes for {} differ by path", to.host)
        })?;
        let fits = |l: &Route| {
            (l.methods.is_empty() || l.methods.iter().any(|m| m.as_str() == method))
                && (l.paths.is_empty() || l.paths.iter().any(|p| p.matches(&target.path)))
        };
        match fitting.iter().find(|l| fits(&l.route)) {
            Some(live) => Ok(Arc::clone(live)),
            None => {
                if guards.is_off(Rule::NotAllowed) {
                    return Ok(Arc::clone(fitting[0]));
                }
                let reason = format!("no route for {to} allows {method} {}", target.path);
                Err(Refusal::new(Rule::NotAllowed, reason).hint(route_hint(
                    to,
                    tls,
                    Some((method, &target.path)),
                )))
            }
        }
    }

    fn named<'a>(&'a self, to: &'a Authority) -> impl Iterator<Item = &'a Arc<LiveRoute>> {
        self.all.iter().filter(|l| l.route.names(&to.host, to.port))
    }
}

/// Whether connections may outlive the change from `old` to `new`.
fn same_upstream(old: &Route, new: &Route) -> bool {
    let of = |r: &Route| {
        (r.host.clone(), r.port, r.tls, r.allow_private, r.connect, r.ca.clone(), r.inject.clone())
    };
    of(old) == of(new)
}

/// Whether a name below a wildcard carries data rather than a name: a lookup of it alone tells the
/// owner of the zone what it says. Words stand in a label of a person's choice, with hyphens
/// between them; data is one long run.
fn looks_like_data(host: &str) -> bool {
    let run = |run: &str| {
        let rare = run.bytes().filter(|b| !b"aeiou".contains(b)).count();
        run.len() >= 20 && (entropy(run) > 3.4 || rare * 4 > run.len() * 3)
    };
    let label = |l: &str| l.len() > 40 && !is_uuid_like(l) || l.split(['-', '_']).any(run);
    host.len() > 120 || host.split('.').any(label)
}

/// `8-4-4-4-12` hex digits: a common name of a tenant or a deployment.
fn is_uuid_like(label: &str) -> bool {
    label.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && label.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// Shannon entropy of the characters, bits each.
fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    for b in text.bytes() {
        counts[usize::from(b)] += 1;
    }
    let len = f64::from(u32::try_from(text.len()).unwrap_or(u32::MAX));
    counts.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / len).map(|p| -p * p.log2()).sum()
}

fn shortened(host: &str) -> String {
    if host.len() > 60 {
        format!("{}…", host.get(..60).unwrap_or_default())
    } else {
        host.to_owned()
    }
}

/// The route in bottle.toml that would allow a request, as TOML.
fn route_hint(to: &Authority, tls: bool, request: Option<(&str, &str)>) -> String {
    let mut route = format!("host = \"{}\"", to.host);
    if to.port != 443 {
        route.push_str(&format!(", port = {}", to.port));
    }
    if let Some((method, path)) = request {
        route.push_str(&format!(", methods = [\"{method}\"]"));
        // Not every path can be a rule; one that can has no escape, and `"` is all that TOML minds
        // in it. A `*` would be the guest's own idea of how wide the rule is.
        if path.parse::<PathPattern>().is_ok() && !path.contains(['"', '*']) {
            route.push_str(&format!(", paths = [\"{path}\"]"));
        }
    }
    if !tls {
        route.push_str(", tls = false");
    }
    format!("to allow it, in bottle.toml under [bottles.NAME]: egress = [{{ {route} }}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_data() {
        for name in [
            "api",
            "my-deployment-name-europe-west4",
            "ec2-203-0-113-25.compute-1.amazonaws.com",
            "0b077150-0000-4000-8000-000000000001.apps.example.com",
            "customer-documentation-preview.pages.example.com",
            "d111111abcdef8.cloudfront.net",
            "internationalization.example.com",
        ] {
            assert!(!looks_like_data(name), "{name}");
        }
        for data in [
            "mfrggzdfmztwq2lknnwg23tpobyxe43u.evil.test",
            "c2stYW50LWFwaTAzLWFiY2RlZmdoaWprbG1u.evil.test",
            "736b2d616e742d6170693033.evil.test",
            &"a".repeat(41),
            &"ab.".repeat(41),
        ] {
            assert!(looks_like_data(data), "{data}");
        }
    }
}
