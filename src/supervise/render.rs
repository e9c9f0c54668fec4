//! Proposals for people. The shown change is computed from the typed request and the policy in
//! force; no text of an agent is shown as a change.

use bottle_policy::{Ask, Policy, ProposalState, RouteAsk};

use super::proposal::{Effect, Proposal};
use crate::humanize::age;
use crate::live_policy::LivePolicies;
use crate::plan::route_line;

/// The kind of a line. The caller chooses its colour; without colour the first character shows the
/// kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Title.
    Title,
    /// Context.
    Plain,
    /// An addition to the policy.
    Added,
    /// A risk.
    Risk,
    /// The agent's own text.
    Quoted,
}

/// What `ask` would change in `policy`. Lines with `  ` are present routes for the same host; lines
/// with `+ ` are new.
#[must_use]
pub fn diff(ask: &Ask, policy: &Policy) -> Vec<String> {
    match ask {
        Ask::Route(route) => {
            let there = policy
                .routes
                .iter()
                .filter(|r| r.names(route.host.as_str(), route.port) || route.host.covers(&r.host));
            let mut out: Vec<String> = there.map(|r| format!("  {}", route_line(r))).collect();
            out.push(added(route));
            out
        }
        Ask::GitUpstream { url, branches } => {
            let push = branches
                .iter()
                .map(|b| format!("\"{}\"", String::from(b.clone())))
                .collect::<Vec<_>>()
                .join(", ");
            vec![format!("+ git {} push [{push}]", url.as_str())]
        }
        Ask::Ref { upstream, branches } => branches
            .iter()
            .map(|b| format!("+ git {upstream} push \"{}\"", String::from(b.clone())))
            .collect(),
        Ask::Finding { upstream, fingerprint } => {
            vec![format!("+ git {upstream} allow finding {fingerprint}")]
        }
        Ask::Question { .. } => Vec::new(),
    }
}

fn added(route: &RouteAsk) -> String {
    format!("+ {}", route_line(&route.route(String::new())))
}

/// A proposal in full. `now` holds the policies in force when the bottle runs.
#[must_use]
pub fn lines(p: &Proposal, now: Option<&LivePolicies>, now_ms: u64) -> Vec<(Tone, String)> {
    let mut out = vec![(
        Tone::Title,
        format!("{}/{}  {}  {}", p.bottle, p.id, p.state.as_str(), ago(p.made_ms, now_ms)),
    )];
    // Risks come first and the agent's text last, so that its text cannot push them off a
    // screen.
    out.extend(p.risks_beside(now).iter().map(|r| (Tone::Risk, format!("! {}", r.text()))));
    let change = now
        .filter(|_| p.state == ProposalState::Pending)
        .map_or_else(|| p.diff.clone(), |now| diff(&p.ask, &now.routes));
    let digest = now
        .filter(|_| p.state == ProposalState::Pending)
        .map(|now| now.digest_for(&p.ask))
        .filter(|d| *d != p.policy);
    if let Some(digest) = digest {
        out.push((
            Tone::Risk,
            format!(
                "! the policy has changed since this was asked; below is the change against {}",
                short(&digest)
            ),
        ));
    }
    let question =
        if let Ask::Question { text, choices } = &p.ask { Some((text, choices)) } else { None };
    if question.is_none() {
        out.push((Tone::Plain, p.ask.summary()));
    }
    out.extend(
        change.into_iter().map(|l| (if l.starts_with('+') { Tone::Added } else { Tone::Plain }, l)),
    );
    let mut says = |title: &str, texts: &mut dyn Iterator<Item = String>| {
        out.push((Tone::Plain, title.to_owned()));
        out.extend(texts.flat_map(|t| quoted(&t)).map(|l| (Tone::Quoted, l)));
    };
    match question {
        Some((text, choices)) => {
            says("the agent asks:", &mut std::iter::once(text.to_string()));
            says(
                "answers:",
                &mut choices.iter().enumerate().map(|(i, c)| format!("{}. {c}", i + 1)),
            );
        }
        None => says("the agent says:", &mut std::iter::once(p.reason.to_string())),
    }
    if let Some(d) = &p.decision {
        let scope = d.scope.map(|s| format!(" {s}")).unwrap_or_default();
        out.push((
            Tone::Plain,
            format!("{} by {}{scope}, {}", p.state.as_str(), d.by, ago(d.at_ms, now_ms)),
        ));
        if let Some(route) = d.route.as_ref().filter(|_| p.state == ProposalState::Edited) {
            out.push((Tone::Added, added(route)));
        }
        if let Some(text) = d.text.as_ref().filter(|t| !t.is_empty()) {
            out.push((Tone::Plain, format!("  {text}")));
        }
        let effect = match &d.effect {
            Effect::InForce(digest) => format!("in force, policy {}", short(digest)),
            Effect::Failed(why) => format!("not in force: {why}"),
            Effect::Expired => "its time is over".to_owned(),
            Effect::Saved => "in the manifest, for the next launch".to_owned(),
            Effect::Applying => "being put in force".to_owned(),
            Effect::Nothing => String::new(),
        };
        out.extend((!effect.is_empty()).then_some((Tone::Plain, effect)));
    }
    out
}

/// Columns of a quoted line, so that it fits beside the list on 80 columns.
const QUOTED_COLUMNS: usize = 38;

/// An agent's text in short lines, each with a mark, so that none can look like a line of the
/// change.
fn quoted(text: &str) -> Vec<String> {
    let (mut out, mut line, mut width) = (Vec::new(), String::new(), 0);
    for word in text.split_inclusive(' ') {
        // A character that may take two columns counts as two.
        let columns =
            |text: &str| text.chars().map(|c| if c < '\u{1100}' { 1 } else { 2 }).sum::<usize>();
        if width + columns(word.trim_end()) > QUOTED_COLUMNS && width > 0 {
            out.push(std::mem::take(&mut line));
            width = 0;
        }
        for c in word.chars() {
            let more = columns(c.encode_utf8(&mut [0; 4]));
            if width + more > QUOTED_COLUMNS {
                out.push(std::mem::take(&mut line));
                width = 0;
            }
            line.push(c);
            width += more;
        }
    }
    out.push(line);
    out.into_iter().map(|l| format!("| {}", l.trim_end())).collect()
}

/// The beginning of a digest.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// How long ago, in a few characters.
#[must_use]
pub fn ago(then_ms: u64, now_ms: u64) -> String {
    format!("{} ago", age(then_ms, now_ms))
}

/// `text` with the terminal's colour for `tone`.
pub(crate) fn paint(tone: Tone, text: &str, colour: bool) -> String {
    let code = match tone {
        _ if !colour => return text.to_owned(),
        Tone::Title => "1",
        Tone::Plain => return text.to_owned(),
        Tone::Added => "32",
        Tone::Risk => "1;31",
        Tone::Quoted => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}
