//! A candidate of a rule: from its keyword to the byte that decides it.

use bottle_policy::Action;

use crate::filter::GRAM;
use crate::matches::{Match, Matches};
use crate::rules::{Before, Rule, Verdict};
use crate::scanner::Query;
use crate::shared::Finding;
use crate::view::View;

/// A candidate of a rule that is not decided.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) rule: u16,
    pub(crate) keyword: u16,
    pub(crate) start: u64,
    /// Up to where it has been looked at; `start` until its keyword is known to be there.
    pub(crate) seen: u64,
}

fn keyword<'a>(query: &Query<'a>, run: &Candidate) -> &'a [u8] {
    &query.scanner.rules[usize::from(run.rule)].keywords[usize::from(run.keyword)]
}

pub(crate) fn held_run(query: &Query<'_>, run: &Candidate) -> Option<u64> {
    (run.seen > run.start && query.rule(run.rule) >= Action::Redact)
        .then(|| held_from(run.start, keyword(query, run)))
}

/// From where on a candidate is held: after its keyword, which is public. Of a very short one the
/// byte that completes its gram.
fn held_from(start: u64, keyword: &[u8]) -> u64 {
    start + keyword.len().max(GRAM - 1) as u64
}

/// Whether a keyword may begin at `start`.
pub(crate) fn preceded(rule: &Rule, view: View<'_>, start: u64) -> bool {
    let back = |n: u64| start.checked_sub(n).and_then(|at| view.byte(at));
    let is = |n: u64, what: fn(&u8) -> bool| back(n).is_some_and(|b| what(&b));
    match rule.before {
        Before::Any => true,
        Before::Digit => is(1, u8::is_ascii_digit),
        Before::Boundary if !is(1, u8::is_ascii_alphanumeric) => true,
        Before::Boundary => {
            let hex = is(1, u8::is_ascii_hexdigit) && is(2, u8::is_ascii_hexdigit);
            back(2) == Some(b'\\')
                || hex && (back(3) == Some(b'%') || back(5) == Some(b'u') && back(6) == Some(b'\\'))
        }
    }
}

/// Goes on with a rule's candidate; whether it is still undecided.
pub(crate) fn run_on(
    query: &Query<'_>,
    view: View<'_>,
    run: &mut Candidate,
    last: bool,
    matches: &mut Matches,
) -> bool {
    let rule = &query.scanner.rules[usize::from(run.rule)];
    let keyword = keyword(query, run);
    let after = run.start + keyword.len() as u64;
    if run.seen == run.start {
        let found = view.slice(run.start, after.min(view.end()));
        let expected = &keyword[..found.len()];
        let same =
            if rule.nocase { found.eq_ignore_ascii_case(expected) } else { *found == *expected };
        if !same || found.len() < keyword.len() {
            return same && !last;
        }
        run.seen = after;
    }
    let most = run.start + rule.max as u64;
    let (head, body) = view.parts(run.seen, most.min(view.end()));
    let outside = |b: &u8| !rule.class.has(*b);
    let len = head
        .iter()
        .position(outside)
        .or_else(|| body.iter().position(outside).map(|i| head.len() + i));
    let (to, decided) = match len {
        Some(len) => (run.seen + len as u64, run.seen + len as u64),
        None if view.end() >= most => (most, most - 1),
        None if last => (view.end(), view.end()),
        None => {
            run.seen = view.end();
            return true;
        }
    };
    let action = query.rule(run.rule);
    if action >= Action::Redact {
        matches.holds.push((held_from(run.start, keyword), decided));
    }
    if to - run.start < rule.min as u64 {
        return false;
    }
    let candidate = view.slice(run.start, to);
    let (len, action) = match rule.judge(&candidate) {
        Verdict::No => return false,
        Verdict::Doubtful(len) => (len, action.min(Action::Warn)),
        Verdict::Yes(len) => (len, action),
    };
    let finding = Finding {
        rule: rule.id.clone(),
        action,
        offset: run.start,
        sample: sample(&candidate[..len]),
        secret: None,
    };
    matches.events.push(Match {
        decided,
        finding,
        masks: (held_from(run.start, keyword), run.start + len as u64),
    });
    false
}

/// The first four bytes of a find, and whether there is more.
fn sample(find: &[u8]) -> String {
    let mut sample: String = find
        .iter()
        .take(4)
        .map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' })
        .collect();
    if find.len() > 4 {
        sample.push('…');
    }
    sample
}
