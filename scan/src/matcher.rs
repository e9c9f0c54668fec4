//! One text on its way: candidates of rules and of secrets, from where they begin to where they are
//! decided.
//!
//! Each candidate is decided at a byte that depends on the text alone, so it does not matter how
//! the text was cut.

use bottle_policy::Action;

use crate::candidate::{Candidate, held_run, preceded, run_on};
use crate::filter::{GRAM, Pattern};
use crate::matches::{Match, Matches};
use crate::scanner::Query;
use crate::secret::{Follower, Form, Step};
use crate::shared::Finding;
use crate::view::View;

/// Bytes before a candidate that decide whether it is one: three of a secret and some backslashes,
/// or an escape.
const LOOK_BEHIND: u64 = 12;

/// The state of a text between two pieces.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    /// Bytes so far.
    end: u64,
    /// The last of them, as far as something may still query for them.
    tail: Vec<u8>,
    runs: Vec<Candidate>,
    followers: Vec<Follower>,
}

impl Matcher {
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn view<'a>(&'a self, piece: &'a [u8]) -> View<'a> {
        View { base: self.end - self.tail.len() as u64, head: &self.tail, body: piece }
    }

    /// From where on nothing may go on yet, with `view` seen.
    pub(crate) fn hold(&self, query: &Query<'_>, end: u64) -> u64 {
        let runs = self.runs.iter().filter_map(|run| held_run(query, run));
        runs.chain(self.followers.iter().map(|f| f.third)).fold(end, u64::min)
    }

    /// Where a text that came byte by byte would have stopped when a find blocked it at `decided`.
    pub(crate) fn stop(
        &self,
        query: &Query<'_>,
        holds: &[(u64, u64)],
        event: &Match,
        end: u64,
    ) -> u64 {
        let before =
            holds.iter().filter(|(_, decided)| *decided >= event.decided).map(|(from, _)| *from);
        before.fold(self.hold(query, end), u64::min).min(event.decided)
    }

    /// Looks at the next piece; [`Matcher::commit`] then takes it over. With `last` the text ends
    /// after it.
    pub(crate) fn scan(&mut self, query: &Query<'_>, piece: &[u8], last: bool) -> Matches {
        let tail = std::mem::take(&mut self.tail);
        let view = View { base: self.end - tail.len() as u64, head: &tail, body: piece };
        let mut matches = Matches::default();
        self.go_on(query, view, last, &mut matches);
        self.begin(query, view, last, &mut matches);
        if last {
            for follower in self.followers.drain(..) {
                matches.holds.push((follower.third, view.end()));
                let form = &query.scanner.forms.all[usize::from(follower.form)];
                if follower.has_enough(form) {
                    matches.events.push(secret(query, form, &follower, view.end(), view.end()));
                }
            }
        }
        self.tail = tail;
        matches
    }

    /// Goes on with what had begun before.
    fn go_on(&mut self, query: &Query<'_>, view: View<'_>, last: bool, matches: &mut Matches) {
        if !self.followers.is_empty() {
            let mut followers = std::mem::take(&mut self.followers);
            followers.retain_mut(|follower| follow(query, view, follower, view.body_at(), matches));
            self.followers = followers;
        }
        if !self.runs.is_empty() {
            let mut runs = std::mem::take(&mut self.runs);
            runs.retain_mut(|run| run_on(query, view, run, last, matches));
            self.runs = runs;
        }
    }

    /// Looks for what begins in the new piece, or with it.
    fn begin(&mut self, query: &Query<'_>, view: View<'_>, last: bool, matches: &mut Matches) {
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
                self.at(query, view, start, [gram[0], gram[1], gram[2], gram[3]], last, matches);
            }
        }
        let mut from = 0;
        while let Some(at) = query.filter.next(view.body, from) {
            if let Some(gram) = view.body[at..].first_chunk() {
                self.at(query, view, view.body_at() + at as u64, *gram, last, matches);
            }
            from = at + 1;
        }
        if !query.scanner.forms.all.is_empty() {
            for at in memchr::memchr3_iter(b'%', b'\\', b'&', view.body) {
                let at = view.body_at() + at as u64;
                query.scanner.forms.escaped(
                    at,
                    |i| view.byte(i),
                    |mut follower| {
                        if follow(query, view, &mut follower, at, matches) {
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
        query: &Query<'_>,
        view: View<'_>,
        start: u64,
        gram: [u8; GRAM],
        last: bool,
        matches: &mut Matches,
    ) {
        for what in query.filter.at(gram) {
            match what {
                Pattern::Rule { rule, keyword } => {
                    let mut run = Candidate { rule, keyword, start, seen: start };
                    let compiled = &query.scanner.rules[usize::from(rule)];
                    if query.rule(rule) != Action::Off
                        && preceded(compiled, view, start)
                        && run_on(query, view, &mut run, last, matches)
                    {
                        self.runs.push(run);
                    }
                }
                Pattern::Form(form) => {
                    for escapes in query.scanner.forms.all[usize::from(form)].readings() {
                        let mut follower = Follower::plain(form, start, *escapes);
                        if follow(query, view, &mut follower, start, matches) {
                            self.followers.push(follower);
                        }
                    }
                }
            }
        }
    }

    /// Takes over what [`Matcher::scan`] looked at, and forgets what nothing can query for any more.
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

/// The find of one of the bundle's own secrets, or of enough of it, that ends before `end`.
fn secret(query: &Query<'_>, form: &Form, follower: &Follower, decided: u64, end: u64) -> Match {
    let finding = Finding {
        rule: query.scanner.own.clone(),
        action: query.secret(),
        offset: follower.start,
        sample: String::new(),
        secret: query.scanner.forms.names.get(usize::from(form.secret)).cloned(),
    };
    Match { decided, finding, masks: (follower.third, end) }
}

/// Goes on with a secret's candidate from `from` on; whether it is still undecided.
fn follow(
    query: &Query<'_>,
    view: View<'_>,
    follower: &mut Follower,
    from: u64,
    matches: &mut Matches,
) -> bool {
    let form = &query.scanner.forms.all[usize::from(follower.form)];
    let (head, body) = view.parts(from, view.end());
    for (byte, pos) in head.iter().chain(body).zip(from..) {
        let step = follower.feed(form, *byte, pos);
        if step == Step::More {
            continue;
        }
        if follower.third < u64::MAX {
            matches.holds.push((follower.third, pos));
        }
        match step {
            Step::Found => matches.events.push(secret(query, form, follower, pos, pos + 1)),
            Step::Lost if follower.has_enough(form) => {
                matches.events.push(secret(query, form, follower, pos, pos))
            }
            Step::Lost | Step::More => {}
        }
        return false;
    }
    true
}
