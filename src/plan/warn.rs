//! Warnings that the operator sees before agreeing to a plan.

use bottle_policy::{Action, PathPattern, Policy, Route};

use super::secrets::looks_secret;
use super::types::LaunchPlan;
use crate::manifest::{EgressChain, TokenSource, neutral};

/// Most comparisons of path patterns when looking for overlaps; beyond that none are reported.
const MAX_COMPARISONS: usize = 2_000_000;

/// A warning when a guest variable's value looks like a secret.
pub(super) fn readable_secret(name: &str, value: &str) -> Option<String> {
    let what = looks_secret(value)?;
    Some(format!(
        "{name} looks like {what} and would be readable in the guest; let a route inject it instead: inject = {{ token = {{ env = \"{name}\" }} }}"
    ))
}

/// All warnings for a plan that is otherwise complete.
pub(super) fn warnings(plan: &LaunchPlan, env_is_set: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut out = Vec::new();
    for (name, value) in &plan.env {
        out.extend(readable_secret(name.as_str(), value));
    }
    if let Some(what) = plan.command.iter().find_map(|word| looks_secret(word)) {
        out.push(format!(
            "the command holds what looks like {what}; let a route inject it instead"
        ));
    }
    if let Some(what) = plan.prompt.as_ref().and_then(|p| looks_secret(&p.text)) {
        out.push(format!("the prompt holds what looks like {what}; let a route inject it instead"));
    }
    for (name, source) in &plan.tokens {
        match source {
            TokenSource::Env(variable) if !env_is_set(variable.as_str()) => {
                out.push(format!(
                    "the variable {variable}, source of token {name}, is not set on this host"
                ));
            }
            TokenSource::Command { argv, .. }
                if argv.iter().any(|word| looks_secret(word).is_some()) =>
            {
                out.push(format!("the command of token {name} holds what looks like a secret, which every user can see while it runs"));
            }
            TokenSource::File { path, .. }
                if plan.workspace.path.as_ref().is_some_and(|dir| path.starts_with(dir)) =>
            {
                out.push(format!(
                    "the file of token {name} is in the workspace, which the guest gets"
                ));
            }
            _ => {}
        }
    }
    if plan.bundle_egress == EgressChain::Mitmproxy
        && plan.policy.routes.iter().any(|r| r.scan.limit != Some(Action::Off))
    {
        out.push("egress by mitmproxy scans nothing: credentials that the agent finds can leave by every route".to_owned());
    }
    routes(&plan.policy, &mut out);
    out
}

fn routes(policy: &Policy, out: &mut Vec<String>) {
    let mut budget = MAX_COMPARISONS;
    for (i, r) in policy.routes.iter().enumerate() {
        let name = neutral(&r.name);
        if let Some(inject) = &r.inject {
            if !r.tls && !r.connect.is_some_and(|c| c.ip().is_loopback()) {
                out.push(format!("route {name} sends token {} over plain http", inject.token));
            }
            if let Some(suffix) = r.host.as_str().strip_prefix("*.") {
                let names = if r.apex {
                    format!("{suffix} and every name below it")
                } else {
                    format!("every name below {suffix}")
                };
                out.push(format!("route {name} sends token {} to {names}", inject.token));
            }
        }
        if r.passthrough {
            out.push(format!("route {name} is not intercepted: nobody sees, scans or limits the requests that go through it"));
        }
        if r.scan.limit == Some(Action::Off) {
            out.push(format!(
                "route {name} is not scanned: credentials that the agent finds can leave by it"
            ));
        }
        let off: Vec<String> = r
            .scan
            .rules
            .iter()
            .filter(|(_, action)| **action == Action::Off)
            .map(|(rule, _)| neutral(rule))
            .collect();
        if !off.is_empty() {
            out.push(format!("route {name} is not scanned by {}", off.join(", ")));
        }
        if let Some(suffix) =
            r.host.as_str().strip_prefix("*.").filter(|_| r.apex && r.inject.is_none())
        {
            out.push(format!("route {name} reaches {suffix} and every name below it"));
        }
        if let Some(first) = policy.routes[..i].iter().find(|first| covers(first, r, &mut budget)) {
            out.push(format!(
                "route {name} is never used: {} before it matches all that it would",
                neutral(&first.name)
            ));
        }
    }
}

/// Whether `a` matches every request that `b` matches.
fn covers(a: &Route, b: &Route, budget: &mut usize) -> bool {
    if a.port != b.port || !covers_host(a, b) {
        return false;
    }
    // The first route for a host decides whether its tunnels are intercepted, whatever its paths.
    if a.passthrough != b.passthrough {
        return true;
    }
    let methods = a.methods.is_empty()
        || (!b.methods.is_empty() && b.methods.iter().all(|m| a.methods.contains(m)));
    if !methods {
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

fn covers_host(a: &Route, b: &Route) -> bool {
    let (above, below) = (a.host.as_str(), b.host.as_str());
    if b.apex && !b.host.as_str().strip_prefix("*.").is_some_and(|apex| a.names(apex, a.port)) {
        return false;
    }
    // A pattern covers another when it matches a name made from that; `*.x` stands for some label
    // below x.
    a.host == b.host
        || a.names(below, a.port)
        || (above.starts_with("*.")
            && a.host.matches(&below.replacen('*', "x", 1))
            && above.len() <= below.len())
}

fn covers_path(a: &PathPattern, b: &PathPattern) -> bool {
    // Only a star of `a` matches a star of `b`, so it is enough to match the pattern's own text.
    // The exception is `**`, which also stands for no segment.
    let text = b.as_str().trim_end_matches('*');
    a == b || (a.as_str().ends_with('*') && !text.contains("**") && a.matches(text))
}
