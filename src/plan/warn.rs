//! What the operator should know before saying yes.

use bottle_policy::{HostPattern, PathPattern, Policy, Route};

use super::LaunchPlan;
use super::secrets::looks_secret;
use crate::manifest::{TokenSource, neutral};

/// Comparisons of path patterns after which overlaps are no longer looked for (a policy that large has none to read anyway).
const BUDGET: usize = 2_000_000;

/// All warnings for a plan that is otherwise complete.
pub(super) fn warnings(plan: &LaunchPlan, env_is_set: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut out = Vec::new();
    for (name, value) in &plan.env {
        if let Some(what) = looks_secret(value) {
            out.push(format!(
                "{name} looks like {what} and would be readable in the guest; let a route inject it instead: inject = {{ token = {{ env = \"{name}\" }} }}"
            ));
        }
    }
    if let Some(what) = plan.command.iter().find_map(|word| looks_secret(word)) {
        out.push(format!("the command holds what looks like {what}; let a route inject it instead"));
    }
    if let Some(what) = plan.prompt.as_ref().and_then(|p| looks_secret(&p.text)) {
        out.push(format!("the prompt holds what looks like {what}; let a route inject it instead"));
    }
    for (name, source) in &plan.tokens {
        match source {
            TokenSource::Env(variable) if !env_is_set(variable.as_str()) => {
                out.push(format!("the variable {variable}, source of token {name}, is not set on this host"));
            }
            TokenSource::Command(argv) if argv.iter().any(|word| looks_secret(word).is_some()) => {
                out.push(format!("the command of token {name} holds what looks like a secret, which every user can see while it runs"));
            }
            TokenSource::File(path) if plan.workspace.path.as_ref().is_some_and(|dir| path.starts_with(dir)) => {
                out.push(format!("the file of token {name} is in the workspace, which the guest gets"));
            }
            _ => {}
        }
    }
    routes(&plan.policy, &mut out);
    out
}

fn routes(policy: &Policy, out: &mut Vec<String>) {
    let mut budget = BUDGET;
    for (i, r) in policy.routes.iter().enumerate() {
        let name = neutral(&r.name);
        if let Some(inject) = &r.inject {
            if !r.tls && !r.connect.is_some_and(|c| c.ip().is_loopback()) {
                out.push(format!("route {name} sends token {} over plain http", inject.token));
            }
            if r.host.as_str().starts_with("*.") {
                out.push(format!("route {name} sends token {} to every name below {}", inject.token, &r.host.as_str()[2..]));
            }
        }
        if let Some(first) = policy.routes[..i].iter().find(|first| covers(first, r, &mut budget)) {
            out.push(format!("route {name} is never used: {} before it matches all that it would", neutral(&first.name)));
        }
    }
}

/// Whether each request that `b` matches is matched by `a` too.
fn covers(a: &Route, b: &Route, budget: &mut usize) -> bool {
    let methods = a.methods.is_empty() || (!b.methods.is_empty() && b.methods.iter().all(|m| a.methods.contains(m)));
    if a.port != b.port || !covers_host(&a.host, &b.host) || !methods {
        return false;
    }
    if a.paths.is_empty() {
        return true;
    }
    let cost = a.paths.len() * b.paths.len();
    if b.paths.is_empty() || cost > *budget {
        return false;
    }
    *budget -= cost;
    b.paths.iter().all(|pb| a.paths.iter().any(|pa| covers_path(pa, pb)))
}

fn covers_host(a: &HostPattern, b: &HostPattern) -> bool {
    // A pattern is above another when it matches a name made from it; `*.x` itself stands for some label below x.
    a == b || (a.as_str().starts_with("*.") && a.matches(&b.as_str().replacen('*', "x", 1)) && a.as_str().len() <= b.as_str().len())
}

fn covers_path(a: &PathPattern, b: &PathPattern) -> bool {
    a == b || (a.as_str().ends_with('*') && a.matches(b.as_str().trim_end_matches('*')))
}
