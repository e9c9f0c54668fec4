//! How an approved proposal changes the policies.

use bottle_policy::{Ask, GRANTED_ROUTE_PREFIX, GatePolicy, Policy, Push, RouteAsk, UpstreamName};

use super::proposal::{Proposal, Scope};
use crate::plan::LaunchPlan;

/// `policy` with the rules that `ask` asks git-gate for; `None` when it asks for something else, or
/// the policy has them.
#[must_use]
pub fn with_git(policy: &GatePolicy, ask: &Ask) -> Option<GatePolicy> {
    let mut new = policy.clone();
    let at = |name: &UpstreamName| policy.upstreams.iter().position(|u| u.name == *name);
    match ask {
        Ask::Ref { upstream, branches } => {
            let rules =
                new.upstreams[at(upstream)?].push.get_or_insert_with(|| Push::to(Vec::new()));
            branches.iter().for_each(|b| {
                if !rules.branches.contains(b) {
                    rules.branches.push(b.clone())
                }
            });
        }
        Ask::Finding { upstream, fingerprint } => {
            new.upstreams[at(upstream)?].push.as_mut()?.allow.insert(fingerprint.clone());
        }
        _ => return None,
    }
    (new != *policy).then_some(new)
}

/// `policy` without what `ask` added to git-gate's rules.
#[must_use]
pub fn without_git(policy: &GatePolicy, ask: &Ask) -> GatePolicy {
    let mut new = policy.clone();
    let rules = |new: &mut GatePolicy, name: &UpstreamName, change: &dyn Fn(&mut Push)| {
        new.upstreams
            .iter_mut()
            .filter(|u| u.name == *name)
            .filter_map(|u| u.push.as_mut())
            .for_each(change);
    };
    match ask {
        Ask::Ref { upstream, branches } => {
            rules(&mut new, upstream, &|p| p.branches.retain(|b| !branches.contains(b)))
        }
        Ask::Finding { upstream, fingerprint } => {
            rules(&mut new, upstream, &|p| p.allow.retain(|f| f != fingerprint));
        }
        _ => {}
    }
    new
}

/// Whether the manifest of this launch has what was approved.
pub(super) fn is_in_manifest(plan: &LaunchPlan, proposal: &Proposal) -> bool {
    let upstream = |name: &UpstreamName| {
        plan.git.iter().find(|g| g.name == *name).and_then(|g| g.push.as_ref())
    };
    match &proposal.ask {
        Ask::Route(asked) => proposal
            .decision
            .as_ref()
            .and_then(|d| d.route.as_ref())
            .unwrap_or(asked)
            .is_allowed_by(&plan.policy),
        Ask::GitUpstream { url, .. } => plan.git.iter().any(|g| g.url.as_str() == url.as_str()),
        Ask::Ref { upstream: name, branches } => {
            upstream(name).is_some_and(|p| branches.iter().all(|b| p.branches.contains(b)))
        }
        Ask::Finding { upstream: name, fingerprint } => {
            upstream(name).is_some_and(|p| p.allow.contains(fingerprint))
        }
        Ask::Question { .. } => true,
    }
}

/// `policy` with the route of a proposal at its end. Grants of one request for the same host go: a
/// spent one would match first and refuse.
pub(super) fn granted(policy: &Policy, id: u32, route: &RouteAsk, scope: Scope) -> Policy {
    let mut routes = policy.routes.clone();
    routes.retain(|r| {
        !(r.name.starts_with(GRANTED_ROUTE_PREFIX)
            && r.budget.requests.is_some()
            && r.host == route.host
            && r.port == route.port)
    });
    let mut new = route.route(format!("{GRANTED_ROUTE_PREFIX}{id}"));
    if scope == Scope::Once {
        new.budget.requests = Some(1);
    }
    routes.push(new);
    Policy::new(routes)
}
