//! Proposals for people. The change is made here out of the typed ask and the policy in force:
//! nothing that an agent wrote is shown as a change.

use bottle_policy::{Ask, Policy, ProposalState, RouteAsk};

use super::{Effect, Policies, Proposal};
use crate::plan::route_line;

/// What a line is; how it is coloured is the caller's business. Without colour the first character
/// says it.
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

/// One line for a list: `demo/3  pending  GET api.example.com:443 /x`.
#[must_use]
pub fn one_line(p: &Proposal) -> String {
    p.ask.summary()
}

/// A proposal in full; `now` is what is in force, when the bottle runs.
#[must_use]
pub fn lines(p: &Proposal, now: Option<&Policies>, now_ms: u64) -> Vec<(Tone, String)> {
    let mut out = vec![(
        Tone::Title,
        format!("{}/{}  {}  {}", p.bottle, p.id, p.state.as_str(), ago(p.made_ms, now_ms)),
    )];
    // What makes it wide comes first and what the agent says last, so that no text of its pushes
    // that off a screen.
    out.extend(p.risks.iter().map(|r| (Tone::Risk, format!("! {}", r.text()))));
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
        out.extend(texts.flat_map(|t| quoted(&t)).map(|l| (Tone::Said, l)));
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
            Effect::Over => "its time is over".to_owned(),
            Effect::Saved => "in the manifest, for the next launch".to_owned(),
            Effect::Applying => "being put in force".to_owned(),
            Effect::Nothing => String::new(),
        };
        out.extend((!effect.is_empty()).then_some((Tone::Plain, effect)));
    }
    out
}

/// Columns of a quoted line: what fits beside the list on 80 columns.
const QUOTED: usize = 38;

/// Text of an agent in lines that no screen has to break, each marked: no part of it can look like
/// a line of the change.
fn quoted(text: &str) -> Vec<String> {
    let (mut out, mut line, mut width) = (Vec::new(), String::new(), 0);
    for word in text.split_inclusive(' ') {
        // A character that may take two columns counts as two.
        let columns =
            |text: &str| text.chars().map(|c| if c < '\u{1100}' { 1 } else { 2 }).sum::<usize>();
        if width + columns(word.trim_end()) > QUOTED && width > 0 {
            out.push(std::mem::take(&mut line));
            width = 0;
        }
        for c in word.chars() {
            let more = columns(c.encode_utf8(&mut [0; 4]));
            if width + more > QUOTED {
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
    match now_ms.saturating_sub(then_ms) / 1000 {
        s @ 0..60 => format!("{s}s ago"),
        s @ 60..3600 => format!("{}m ago", s / 60),
        s @ 3600..86_400 => format!("{}h ago", s / 3600),
        s => format!("{}d ago", s / 86_400),
    }
}

/// `text` as a terminal shows it.
pub(crate) fn paint(tone: Tone, text: &str, colour: bool) -> String {
    let code = match tone {
        _ if !colour => return text.to_owned(),
        Tone::Title => "1",
        Tone::Plain => return text.to_owned(),
        Tone::Added => "32",
        Tone::Risk => "1;31",
        Tone::Said => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}
