//! Proposals for people. The change is made here out of the typed ask and the policy in force: nothing that an agent wrote is shown
//! as a change.

use bottle_policy::{Ask, Policy, ProposalState, RouteAsk};

use super::{Effect, Policies, Proposal};
use crate::plan::route_line;

/// What a line is; how it is coloured is the caller's business. Without colour the first character says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Title.
    Title,
    /// Context.
    Plain,
    /// What is added.
    Added,
    /// What needs a second thought.
    Risk,
    /// What the agent says.
    Said,
}

/// What `ask` would change in `policy`: `  ` what is there for the same host, `+ ` what comes.
#[must_use]
pub fn diff(ask: &Ask, policy: &Policy) -> Vec<String> {
    match ask {
        Ask::Route(route) => {
            let there = policy.routes.iter().filter(|r| r.names(route.host.as_str(), route.port) || route.host.covers(&r.host));
            let mut out: Vec<String> = there.map(|r| format!("  {}", route_line(r))).collect();
            out.push(added(route));
            out
        }
        Ask::GitUpstream { url, branches } => {
            let push = branches.iter().map(|b| format!("\"{}\"", String::from(b.clone()))).collect::<Vec<_>>().join(", ");
            vec![format!("+ git {} push [{push}]", url.as_str())]
        }
        Ask::Ref { upstream, branches } => {
            branches.iter().map(|b| format!("+ git {upstream} push \"{}\"", String::from(b.clone()))).collect()
        }
        Ask::Finding { upstream, fingerprint } => vec![format!("+ git {upstream} allow finding {fingerprint}")],
        Ask::Question { .. } => Vec::new(),
    }
}

fn added(route: &RouteAsk) -> String {
    format!("+ {}", route_line(&route.route(String::new())))
}

/// One line for a list: `demo/3  pending  GET api.example.com:443 /x`.
#[must_use]
pub fn one_line(p: &Proposal) -> String {
    p.ask.summary()
}

/// A proposal in full; `now` is what is in force, when the bottle runs.
#[must_use]
pub fn lines(p: &Proposal, now: Option<&Policies>, now_ms: u64) -> Vec<(Tone, String)> {
    let mut out = vec![(Tone::Title, format!("{}/{}  {}  {}", p.bottle, p.id, p.state.as_str(), ago(p.made_ms, now_ms)))];
    out.push((Tone::Plain, p.ask.summary()));
    if let Ask::Question { choices, .. } = &p.ask {
        out.extend(choices.iter().enumerate().map(|(i, c)| (Tone::Said, format!("  {}. {c}", i + 1))));
    } else {
        out.push((Tone::Said, format!("the agent says: {}", p.reason)));
    }
    let change = now.filter(|_| p.state == ProposalState::Pending).map_or_else(|| p.diff.clone(), |now| diff(&p.ask, &now.routes));
    out.extend(change.into_iter().map(|l| (if l.starts_with('+') { Tone::Added } else { Tone::Plain }, l)));
    out.extend(p.risks.iter().map(|r| (Tone::Risk, format!("! {}", r.text()))));
    let digest = now.filter(|_| p.state == ProposalState::Pending).map(|now| now.digest_for(&p.ask)).filter(|d| *d != p.policy);
    if let Some(digest) = digest {
        out.push((Tone::Risk, format!("! the policy has changed since this was asked; above is the change against {}", short(&digest))));
    }
    if let Some(d) = &p.decision {
        let scope = d.scope.map(|s| format!(" {s}")).unwrap_or_default();
        out.push((Tone::Plain, format!("{} by {}{scope}, {}", p.state.as_str(), d.by, ago(d.at_ms, now_ms))));
        if let Some(route) = d.route.as_ref().filter(|_| p.state == ProposalState::Edited) {
            out.push((Tone::Added, added(route)));
        }
        if let Some(text) = d.text.as_ref().filter(|t| !t.is_empty()) {
            out.push((Tone::Plain, format!("  {text}")));
        }
        let effect = match &d.effect {
            Effect::InForce(digest) => format!("in force, policy {}", short(digest)),
            Effect::Failed(why) => format!("not in force: {why}"),
            Effect::Over => "its time is over".to_owned(),
            Effect::Saved => "in the manifest, for the next launch".to_owned(),
            Effect::Applying => "being put in force".to_owned(),
            Effect::Nothing => String::new(),
        };
        out.extend((!effect.is_empty()).then_some((Tone::Plain, effect)));
    }
    out
}

/// The beginning of a digest.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// How long ago, in a few characters.
#[must_use]
pub fn ago(then_ms: u64, now_ms: u64) -> String {
    match now_ms.saturating_sub(then_ms) / 1000 {
        s @ 0..60 => format!("{s}s ago"),
        s @ 60..3600 => format!("{}m ago", s / 60),
        s @ 3600..86_400 => format!("{}h ago", s / 3600),
        s => format!("{}d ago", s / 86_400),
    }
}
