//! The policy, ready for matching: the first route that fits decides.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bottle_policy::{PathPattern, Policy, Route, Secret, TokenName};

use super::authority::Authority;
use super::headers::{Credential, CredentialError};
use super::path::Target;
use super::refusal::{Guards, Refusal, Rule};
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
    /// A CA that cannot be read.
    #[error("route {0:?}: its ca holds no PEM certificate")]
    Ca(String),
}

/// A route with its credential and its own connections: nothing of one route is ever used for another.
pub struct LiveRoute {
    /// As written.
    pub route: Route,
    /// What is injected.
    pub credential: Option<Credential>,
    /// Connections.
    pub upstream: Upstream,
}

/// All routes.
pub struct Routes(Vec<Arc<LiveRoute>>);

impl Routes {
    /// Checks `policy` and binds it to the tokens' values.
    ///
    /// # Errors
    /// What cannot be enforced as written.
    pub fn new(policy: Policy, tokens: &BTreeMap<TokenName, Secret>, network: &Arc<Network>) -> Result<Self, PolicyError> {
        if policy.version != 1 {
            return Err(PolicyError::Version(policy.version));
        }
        let mut names = HashSet::new();
        let mut live = Vec::with_capacity(policy.routes.len());
        for route in policy.routes {
            if !names.insert(route.name.clone()) {
                return Err(PolicyError::Name(route.name));
            }
            let credential = match &route.inject {
                None => None,
                Some(inject) => {
                    let missing = || PolicyError::Token { route: route.name.clone(), token: inject.token.clone() };
                    let token = tokens.get(&inject.token).ok_or_else(missing)?;
                    let bad = |source| PolicyError::Credential { route: route.name.clone(), source };
                    Some(Credential::new(inject, token).map_err(bad)?)
                }
            };
            let upstream = Upstream::new(&route, network.clone()).map_err(|NoCertificate| PolicyError::Ca(route.name.clone()))?;
            live.push(Arc::new(LiveRoute { route, credential, upstream }));
        }
        Ok(Self(live))
    }

    /// Whether a tunnel to `to` may be opened at all.
    ///
    /// # Errors
    /// [`Rule::NoRoute`], or [`Rule::WrongScheme`] when only plain http is allowed there.
    pub fn check_tunnel(&self, to: &Authority, guards: &Guards) -> Result<(), Refusal> {
        let (mut named, mut tls) = (false, false);
        for live in self.named(to) {
            named = true;
            tls |= live.route.tls;
        }
        guards
            .check(!named, Rule::NoRoute, || format!("no route of this bottle names {to}"))
            .map_err(|r| r.hint(route_hint(to, true, None)))?;
        guards.check(named && !tls, Rule::WrongScheme, || format!("the route for {to} is plain http (tls = false), so not by CONNECT"))
    }

    /// The route of a request.
    ///
    /// # Errors
    /// [`Rule::NoRoute`], [`Rule::WrongScheme`], [`Rule::NotAllowed`], or [`Rule::Path`] for an escaped slash on a host
    /// whose routes differ by path.
    pub fn find(&self, to: &Authority, tls: bool, method: &str, target: &Target, guards: &Guards) -> Result<Arc<LiveRoute>, Refusal> {
        let named: Vec<&Arc<LiveRoute>> = self.named(to).collect();
        if named.is_empty() {
            return Err(Refusal::new(Rule::NoRoute, format!("no route of this bottle names {to}")).hint(route_hint(to, tls, None)));
        }
        let fitting: Vec<&Arc<LiveRoute>> = named.into_iter().filter(|l| l.route.tls == tls).collect();
        if fitting.is_empty() {
            let (is, wanted) = if tls { ("https", "http") } else { ("http", "https") };
            return Err(Refusal::new(Rule::WrongScheme, format!("the route for {to} is for {wanted}, this request is {is}")));
        }
        // npm asks for `/@scope%2fname`. Where no route looks at paths there is nothing that it could get past.
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
                #[cfg(test)]
                if guards.off.contains(&Rule::NotAllowed) {
                    return Ok(Arc::clone(fitting[0]));
                }
                let reason = format!("no route for {to} allows {method} {}", target.path);
                Err(Refusal::new(Rule::NotAllowed, reason).hint(route_hint(to, tls, Some((method, &target.path)))))
            }
        }
    }

    fn named<'a>(&'a self, to: &'a Authority) -> impl Iterator<Item = &'a Arc<LiveRoute>> {
        self.0.iter().filter(|l| l.route.names(&to.host, to.port))
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
        // Not every path can be a rule; one that can has no escape, and `"` is all that TOML minds in it.
        if path.parse::<PathPattern>().is_ok() && !path.contains('"') {
            route.push_str(&format!(", paths = [\"{path}\"]"));
        }
    }
    if !tls {
        route.push_str(", tls = false");
    }
    format!("to allow it, in bottle.toml under [bottles.NAME]: egress = [{{ {route} }}]")
}
