//! One text on its way: candidates of rules and of secrets, from where they begin to where they are
//! decided.
//!
//! Each candidate is decided at a byte that depends on the text alone, so it does not matter how
//! the text was cut.

use std::borrow::Cow;

use bottle_policy::Action;

use crate::filter::{Filter, GRAM, What};
use crate::rules::{Before, Rule, Verdict};
use crate::secret::{Follower, Form, Step};
use crate::{Direction, Finding, Scanner};

/// Bytes before a candidate that decide whether it is one: three of a secret and some backslashes,
/// or an escape.
const LOOK_BEHIND: u64 = 12;

/// What is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) scanner: &'a Scanner,
    pub(crate) filter: &'a Filter,
    /// What each rule does.
    pub(crate) actions: &'a [Action],
    pub(crate) direction: Direction,
    /// Whether the text can be overwritten; else what would be redacted is blocked.
    pub(crate) redact: bool,
}

impl Ask<'_> {
    fn possible(&self, action: Action) -> Action {
        if action == Action::Redact && !self.redact { Action::Block } else { action }
    }

    fn rule(&self, rule: u16) -> Action {
        self.possible(self.actions[usize::from(rule)])
    }

    fn secret(&self) -> Action {
        match self.direction {
            Direction::Request => Action::Block,
            Direction::Response => self.possible(Action::Redact),
        }
    }
}

/// A decision that was a find.
pub(crate) struct Event {
    /// The byte that decided.
    decided: u64,
    pub(crate) finding: Finding,
    /// What is overwritten if that is its action.
    pub(crate) stars: (u64, u64),
}

/// What came of a piece of text.
#[derive(Default)]
pub(crate) struct Outcome {
    events: Vec<Event>,
    /// Of each candidate that could have blocked: from where it was held, and the byte that
    /// decided.
    holds: Vec<(u64, u64)>,
}

impl Outcome {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The finds, in the order in which a text that comes byte by byte decides them.
    pub(crate) fn sorted(mut self) -> (Vec<Event>, Vec<(u64, u64)>) {
        let key = |e: &Event| (e.decided, e.finding.offset, e.stars);
        self.events
            .sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.finding.rule.cmp(&b.finding.rule)));
        // A secret may be found in two forms at once; the first begins first, so it names all that
        // is to be overwritten.
        self.events.dedup_by(|b, a| {
            a.decided == b.decided
                && a.finding.secret.is_some()
                && a.finding.secret == b.finding.secret
        });
        (self.events, self.holds)
    }
}

/// A candidate of a rule that is not decided.
#[derive(Debug)]
struct Run {
    rule: u16,
    keyword: u16,
    start: u64,
    /// Up to where it has been looked at; `start` until its keyword is known to be there.
    seen: u64,
}

/// The state of a text between two pieces.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    /// Bytes so far.
    end: u64,
    /// The last of them, as far as something may still ask for them.
    tail: Vec<u8>,
    runs: Vec<Run>,
    followers: Vec<Follower>,
}

/// The end of a text, and the piece after it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    base: u64,
    head: &'a [u8],
    body: &'a [u8],
}

impl<'a> View<'a> {
    fn body_at(&self) -> u64 {
        self.base + self.head.len() as u64
    }

    fn end(&self) -> u64 {
        self.body_at() + self.body.len() as u64
    }

    #[allow(clippy::cast_possible_truncation)] // of a difference within the two slices
    fn byte(&self, at: u64) -> Option<u8> {
        let at = at.checked_sub(self.base)? as usize;
        self.head.get(at).or_else(|| self.body.get(at - self.head.len())).copied()
    }

    /// The bytes from `from` to `to`, split where the new piece begins.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn parts(&self, from: u64, to: u64) -> (&'a [u8], &'a [u8]) {
        let split = |at: u64| (at.saturating_sub(self.base) as usize).min(self.head.len());
        let body = |at: u64| (at.saturating_sub(self.body_at()) as usize).min(self.body.len());
        (
            self.head.get(split(from)..split(to)).unwrap_or_default(),
            self.body.get(body(from)..body(to)).unwrap_or_default(),
        )
    }

    fn slice(&self, from: u64, to: u64) -> Cow<'a, [u8]> {
        match self.parts(from, to) {
            (head, []) => Cow::Borrowed(head),
            ([], body) => Cow::Borrowed(body),
            (head, body) => Cow::Owned([head, body].concat()),
        }
    }
}

impl Matcher {
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn view<'a>(&'a self, piece: &'a [u8]) -> View<'a> {
        View { base: self.end - self.tail.len() as u64, head: &self.tail, body: piece }
    }

    /// From where on nothing may go on yet, with `view` seen.
    pub(crate) fn hold(&self, ask: &Ask<'_>, end: u64) -> u64 {
        let runs = self.runs.iter().filter_map(|run| held_run(ask, run));
        runs.chain(self.followers.iter().map(|f| f.third)).fold(end, u64::min)
    }

    /// Where a text that came byte by byte would have stopped when a find blocked it at `decided`.
    pub(crate) fn stop(&self, ask: &Ask<'_>, holds: &[(u64, u64)], event: &Event, end: u64) -> u64 {
        let before =
            holds.iter().filter(|(_, decided)| *decided >= event.decided).map(|(from, _)| *from);
        before.fold(self.hold(ask, end), u64::min).min(event.decided)
    }

    /// Looks at the next piece; [`Matcher::commit`] then takes it over. With `last` the text ends
    /// after it.
    pub(crate) fn scan(&mut self, ask: &Ask<'_>, piece: &[u8], last: bool) -> Outcome {
        let tail = std::mem::take(&mut self.tail);
        let view = View { base: self.end - tail.len() as u64, head: &tail, body: piece };
        let mut outcome = Outcome::default();
        self.go_on(ask, view, last, &mut outcome);
        self.begin(ask, view, last, &mut outcome);
        if last {
            for follower in self.followers.drain(..) {
                outcome.holds.push((follower.third, view.end()));
                let form = &ask.scanner.forms.all[usize::from(follower.form)];
                if follower.has_enough(form) {
                    outcome.events.push(secret(ask, form, &follower, view.end(), view.end()));
                }
            }
        }
        self.tail = tail;
        outcome
    }

    /// Goes on with what had begun before.
    fn go_on(&mut self, ask: &Ask<'_>, view: View<'_>, last: bool, outcome: &mut Outcome) {
        if !self.followers.is_empty() {
            let mut followers = std::mem::take(&mut self.followers);
            followers.retain_mut(|follower| follow(ask, view, follower, view.body_at(), outcome));
            self.followers = followers;
        }
        if !self.runs.is_empty() {
            let mut runs = std::mem::take(&mut self.runs);
            runs.retain_mut(|run| run_on(ask, view, run, last, outcome));
            self.runs = runs;
        }
    }

    /// Looks for what begins in the new piece, or with it.
    fn begin(&mut self, ask: &Ask<'_>, view: View<'_>, last: bool, outcome: &mut Outcome) {
        let (before, _) =
            view.parts(view.body_at().saturating_sub(GRAM as u64 - 1), view.body_at());
        if !before.is_empty() {
            let mut seam = [0; 2 * (GRAM - 1)];
            let after = &view.body[..view.body.len().min(GRAM - 1)];
            let len = before.len() + after.len();
            seam[..before.len()].copy_from_slice(before);
            seam[before.len()..len].copy_from_slice(after);
            for (i, gram) in seam[..len].windows(GRAM).enumerate() {
                let start = view.body_at() - before.len() as u64 + i as u64;
                self.at(ask, view, start, [gram[0], gram[1], gram[2], gram[3]], last, outcome);
            }
        }
        let mut from = 0;
        while let Some(at) = ask.filter.next(view.body, from) {
            if let Some(gram) = view.body[at..].first_chunk() {
                self.at(ask, view, view.body_at() + at as u64, *gram, last, outcome);
            }
            from = at + 1;
        }
        if !ask.scanner.forms.all.is_empty() {
            for at in memchr::memchr3_iter(b'%', b'\\', b'&', view.body) {
                let at = view.body_at() + at as u64;
                ask.scanner.forms.escaped(
                    at,
                    |i| view.byte(i),
                    |mut follower| {
                        if follow(ask, view, &mut follower, at, outcome) {
                            self.followers.push(follower);
                        }
                    },
                );
            }
        }
    }

    /// Begins what the gram at `start` may be.
    fn at(
        &mut self,
        ask: &Ask<'_>,
        view: View<'_>,
        start: u64,
        gram: [u8; GRAM],
        last: bool,
        outcome: &mut Outcome,
    ) {
        for what in ask.filter.at(gram) {
            match what {
                What::Rule { rule, keyword } => {
                    let mut run = Run { rule, keyword, start, seen: start };
                    let compiled = &ask.scanner.rules[usize::from(rule)];
                    if ask.rule(rule) != Action::Off
                        && preceded(compiled, view, start)
                        && run_on(ask, view, &mut run, last, outcome)
                    {
                        self.runs.push(run);
                    }
                }
                What::Form(form) => {
                    for escapes in ask.scanner.forms.all[usize::from(form)].readings() {
                        let mut follower = Follower::plain(form, start, *escapes);
                        if follow(ask, view, &mut follower, start, outcome) {
                            self.followers.push(follower);
                        }
                    }
                }
            }
        }
    }

    /// Takes over what [`Matcher::scan`] looked at, and forgets what nothing can ask for any more.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn commit(&mut self, piece: &[u8]) {
        let end = self.end + piece.len() as u64;
        let runs = self.runs.iter().map(|run| run.start);
        let needed = runs
            .chain(self.followers.iter().map(|f| f.third))
            .fold(end, u64::min)
            .min(end.saturating_sub(LOOK_BEHIND));
        let from_tail = (needed.saturating_sub(self.end - self.tail.len() as u64) as usize)
            .min(self.tail.len());
        self.tail.drain(..from_tail);
        self.tail.extend_from_slice(
            &piece[(needed.saturating_sub(self.end) as usize).min(piece.len())..],
        );
        self.end = end;
    }
}

fn keyword<'a>(ask: &Ask<'a>, run: &Run) -> &'a [u8] {
    &ask.scanner.rules[usize::from(run.rule)].keywords[usize::from(run.keyword)]
}

fn held_run(ask: &Ask<'_>, run: &Run) -> Option<u64> {
    (run.seen > run.start && ask.rule(run.rule) >= Action::Redact)
        .then(|| held_from(run.start, keyword(ask, run)))
}

/// From where on a candidate is held: after its keyword, which is public. Of a very short one the
/// byte that completes its gram.
fn held_from(start: u64, keyword: &[u8]) -> u64 {
    start + keyword.len().max(GRAM - 1) as u64
}

/// Whether a keyword may begin at `start`.
fn preceded(rule: &Rule, view: View<'_>, start: u64) -> bool {
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
fn run_on(ask: &Ask<'_>, view: View<'_>, run: &mut Run, last: bool, outcome: &mut Outcome) -> bool {
    let rule = &ask.scanner.rules[usize::from(run.rule)];
    let keyword = keyword(ask, run);
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
    let action = ask.rule(run.rule);
    if action >= Action::Redact {
        outcome.holds.push((held_from(run.start, keyword), decided));
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
    outcome.events.push(Event {
        decided,
        finding,
        stars: (held_from(run.start, keyword), run.start + len as u64),
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

/// The find of one of the bundle's own secrets, or of enough of it, that ends before `end`.
fn secret(ask: &Ask<'_>, form: &Form, follower: &Follower, decided: u64, end: u64) -> Event {
    let finding = Finding {
        rule: ask.scanner.own.clone(),
        action: ask.secret(),
        offset: follower.start,
        sample: String::new(),
        secret: ask.scanner.forms.names.get(usize::from(form.secret)).cloned(),
    };
    Event { decided, finding, stars: (follower.third, end) }
}

/// Goes on with a secret's candidate from `from` on; whether it is still undecided.
fn follow(
    ask: &Ask<'_>,
    view: View<'_>,
    follower: &mut Follower,
    from: u64,
    outcome: &mut Outcome,
) -> bool {
    let form = &ask.scanner.forms.all[usize::from(follower.form)];
    let (head, body) = view.parts(from, view.end());
    for (byte, pos) in head.iter().chain(body).zip(from..) {
        let step = follower.feed(form, *byte, pos);
        if step == Step::More {
            continue;
        }
        if follower.third < u64::MAX {
            outcome.holds.push((follower.third, pos));
        }
        match step {
            Step::Found => outcome.events.push(secret(ask, form, follower, pos, pos + 1)),
            Step::Lost if follower.has_enough(form) => {
                outcome.events.push(secret(ask, form, follower, pos, pos))
            }
            Step::Lost | Step::More => {}
        }
        return false;
    }
    true
}
