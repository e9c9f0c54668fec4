//! A candidate of a rule: from its keyword to the byte that decides it.

use bottle_policy::Action;

use crate::decoding::{Decoding, is_separator};
use crate::matches::{Match, Matches};
use crate::rules::{Before, Rule, Verdict};
use crate::scanner::Query;
use crate::shared::{self, Encoding, Finding, GRAM, Place};
use crate::unescape::is_special;
use crate::view::View;

/// A candidate of a rule that is not decided.
#[derive(Debug)]
pub(crate) struct Candidate {
    rule: u16,
    keyword: u16,
    /// Where it begins in the text, bytes.
    pub(crate) start: u64,
    /// Up to where it has been looked at; `start` until its keyword is known to be there.
    seen: u64,
    /// What is decoded so far, if it is not written as it is.
    decoding: Option<Box<Decoding>>,
}

impl Candidate {
    /// A candidate at `place`, if what stands before it allows one.
    pub(crate) fn begin(
        query: &Query<'_>,
        view: View<'_>,
        (rule, keyword): (u16, u16),
        place: &Place,
    ) -> Option<Self> {
        let compiled = &query.scanner.rules[usize::from(rule)];
        if query.rule(rule) == Action::Off {
            return None;
        }
        let decoding = if place.encoding == Encoding::Plain {
            preceded(compiled, view, place.start)
                .then(|| place.escaped.then(|| Decoding::plain(place)))?
        } else {
            Some(Decoding::encoded(view, place, |before| allows(compiled, before))?)
        };
        let decoding = decoding.map(Box::new);
        Some(Self { rule, keyword, start: place.start, seen: place.start, decoding })
    }

    fn keyword<'a>(&self, query: &Query<'a>) -> &'a [u8] {
        &query.scanner.rules[usize::from(self.rule)].keywords[usize::from(self.keyword)]
    }

    /// From where on the text is held for its sake.
    pub(crate) fn held(&self, query: &Query<'_>) -> Option<u64> {
        let from = match &self.decoding {
            Some(decoding) => decoding.hold?,
            None if self.seen > self.start => held_from(self.start, self.keyword(query)),
            None => return None,
        };
        (query.rule(self.rule) >= Action::Redact).then_some(from)
    }

    /// Goes on with the text; whether the candidate is still undecided.
    pub(crate) fn advance(
        &mut self,
        query: &Query<'_>,
        view: View<'_>,
        last: bool,
        matches: &mut Matches,
    ) -> bool {
        if self.decoding.is_some() {
            return self.decode(query, view, last, matches);
        }
        let rule = &query.scanner.rules[usize::from(self.rule)];
        let keyword = self.keyword(query);
        let after = self.start + keyword.len() as u64;
        if self.seen == self.start {
            let found = view.slice(self.start, after.min(view.end()));
            let differs = found.iter().zip(keyword).position(|(a, b)| !query.same(rule, *a, *b));
            match differs {
                Some(at) if is_special(found[at]) && query.uses(shared::View::Escapes) => {
                    let known = self.start + at as u64;
                    self.decoding = Some(Box::new(Decoding::from_start(self.start, known)));
                    return self.decode(query, view, last, matches);
                }
                Some(_) => return false,
                None if found.len() < keyword.len() => return !last,
                None => self.seen = after,
            }
        }
        let most = self.start + rule.max as u64;
        let (head, body) = view.parts(self.seen, most.min(view.end()));
        let outside = |b: &u8| !query.has(rule, *b);
        let len = head
            .iter()
            .position(outside)
            .or_else(|| body.iter().position(outside).map(|i| head.len() + i));
        let (to, decided) = match len {
            Some(len) => (self.seen + len as u64, self.seen + len as u64),
            None if view.end() >= most => (most, most - 1),
            None if last => (view.end(), view.end()),
            None => {
                self.seen = view.end();
                return true;
            }
        };
        let hold = held_from(self.start, keyword);
        let candidate = view.slice(self.start, to);
        let end = |len: usize| self.start + len as u64;
        if self.judge(query, &candidate, (hold, decided), end, matches) {
            return false;
        }
        let value = &candidate[keyword.len()..];
        let next = view.byte(to);
        let joins = query.uses(shared::View::Fields)
            && rule.joins(keyword, value)
            && next.is_some_and(|b| {
                is_separator(b) && (query.uses(shared::View::Escapes) || !is_special(b))
            });
        let escaped = query.uses(shared::View::Escapes)
            && (value.iter().any(|b| is_special(*b)) || next.is_some_and(is_special));
        if joins || escaped {
            let found = &candidate[..keyword.len()];
            let decoding = Decoding::after_keyword(self.start, found, joins, (hold, decided));
            self.decoding = Some(Box::new(decoding));
            return self.decode(query, view, last, matches);
        }
        false
    }

    /// Goes on with a candidate that is decoded; whether it is still undecided.
    fn decode(
        &mut self,
        query: &Query<'_>,
        view: View<'_>,
        last: bool,
        matches: &mut Matches,
    ) -> bool {
        let Some(decoding) = &mut self.decoding else { return false };
        let rule = &query.scanner.rules[usize::from(self.rule)];
        let keyword =
            &query.scanner.rules[usize::from(self.rule)].keywords[usize::from(self.keyword)];
        let ended = decoding.advance(
            view,
            last,
            |bytes, byte| match keyword.get(bytes.len()) {
                Some(expected) => query.same(rule, byte, *expected),
                None => query.has(rule, byte) && bytes.len() < rule.max,
            },
            keyword.len(),
        );
        let Some(end) = ended else { return true };
        let Some(decoding) = self.decoding.take() else { return false };
        let decided = end.max(decoding.known);
        if let Some(hold) = decoding.hold {
            // As far as each of its parts, if it is one of several.
            for len in decoding.parts.iter().copied().chain([decoding.bytes.len()]) {
                let candidate = &decoding.bytes[..len.min(decoding.bytes.len())];
                if self.judge(query, candidate, (hold, decided), |_| end, matches) {
                    break;
                }
            }
        }
        false
    }

    /// Judges a whole candidate, which is held from the first of `place` on and decided at the
    /// second. `end` gives the place in the text where its first so many bytes end. Returns whether it is
    /// a finding.
    fn judge(
        &self,
        query: &Query<'_>,
        candidate: &[u8],
        (hold, decided): (u64, u64),
        end: impl Fn(usize) -> u64,
        matches: &mut Matches,
    ) -> bool {
        let rule = &query.scanner.rules[usize::from(self.rule)];
        let action = query.rule(self.rule);
        if action >= Action::Redact {
            matches.holds.push((hold, decided));
        }
        if candidate.len() < rule.min {
            return false;
        }
        let (len, action) = match rule.judge(candidate, query.any_case) {
            Verdict::No => return false,
            Verdict::Doubtful(len) => (len, action.min(Action::Warn)),
            Verdict::Yes(len) => (len, action),
        };
        let finding = Finding {
            rule: rule.id.clone(),
            action,
            offset: self.start,
            sample: sample(&candidate[..len]),
            secret: None,
            suspected: rule.is_suspicion(),
        };
        matches.events.push(Match { decided, finding, masks: (hold, end(len)) });
        true
    }
}

/// From where on a candidate is held: after its keyword, which is public. Of a very short one the
/// byte that completes its gram.
fn held_from(start: u64, keyword: &[u8]) -> u64 {
    start + keyword.len().max(GRAM - 1) as u64
}

/// Whether `before` may stand before a keyword.
fn allows(rule: &Rule, before: Option<u8>) -> bool {
    match rule.before {
        Before::Any => true,
        Before::Digit => before.is_some_and(|b| b.is_ascii_digit()),
        Before::Boundary => !before.is_some_and(|b| b.is_ascii_alphanumeric()),
    }
}

/// Whether a keyword may begin at `start` of a text as it is.
fn preceded(rule: &Rule, view: View<'_>, start: u64) -> bool {
    let back = |n: u64| start.checked_sub(n).and_then(|at| view.byte(at));
    let is = |n: u64, what: fn(&u8) -> bool| back(n).is_some_and(|b| what(&b));
    if allows(rule, back(1)) {
        return true;
    }
    // The end of an escape is no letter.
    let hex = is(1, u8::is_ascii_hexdigit) && is(2, u8::is_ascii_hexdigit);
    rule.before == Before::Boundary
        && (back(2) == Some(b'\\')
            || hex
                && (matches!(back(3), Some(b'%' | b'='))
                    || back(5) == Some(b'u') && back(6) == Some(b'\\')))
}

/// The first four bytes of a finding, with `…` if there are more.
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
