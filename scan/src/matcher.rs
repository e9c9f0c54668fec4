//! One text on its way: candidates of rules and of secrets, from where they begin to where they are
//! decided.
//!
//! Each candidate is decided at a byte that depends on the text alone, so it does not matter how
//! the text was cut.

use crate::candidate::Candidate;
use crate::escaped::{self, Characters, Reading, TAG_LEAD};
use crate::filter::Pattern;
use crate::matches::{Match, Matches};
use crate::scanner::Query;
use crate::secret::{Follower, Form, Step};
use crate::shared::{self, Direction, Encoding, Finding, GRAM, Place};
use crate::view::View;

/// Bytes before a candidate that decide whether it is one: three of a secret and some backslashes,
/// or an escape.
const LOOK_BEHIND: u64 = 12;

/// The state of a text between two pieces.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    /// Bytes so far.
    end: u64,
    /// The last of them, as far as a candidate still needs them.
    tail: Vec<u8>,
    candidates: Vec<Candidate>,
    followers: Vec<Follower>,
    /// Places of what may be escapes and cannot be read before more of the text is there, and
    /// whether tag characters stand for ASCII there.
    unread: Vec<(u64, bool)>,
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
        let candidates = self.candidates.iter().filter_map(|candidate| candidate.held(query));
        candidates.chain(self.followers.iter().map(|f| f.third)).fold(end, u64::min)
    }

    /// Where a text that came byte by byte would have stopped when a finding blocked it at `decided`.
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
        self.candidates.retain_mut(|candidate| candidate.advance(query, view, last, matches));
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
                let gram = [gram[0], gram[1], gram[2], gram[3]];
                self.at(query, view, start, gram, last, matches);
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
        if query.direction == Direction::Request && query.uses(shared::View::Escapes) {
            self.begin_escaped(query, view, last, matches);
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
        for pattern in query.filter.at(gram) {
            match pattern {
                Pattern::Rule { rule, keyword, encoding } => {
                    let known = start + GRAM as u64 - 1;
                    let place = Place { start, known, encoding, escaped: false, tags: false };
                    self.candidate(query, view, (rule, keyword), &place, last, matches);
                }
                Pattern::Form(form) => self.follow_form(query, view, form, (start, 0), matches),
            }
        }
    }

    /// Looks for what begins with an escape, an invisible character, or one that looks like ASCII.
    fn begin_escaped(
        &mut self,
        query: &Query<'_>,
        view: View<'_>,
        last: bool,
        matches: &mut Matches,
    ) {
        for at in std::mem::take(&mut self.unread) {
            self.read(query, view, at, last, matches);
        }
        let mut from = 0;
        while let Some(at) = escaped::next(view.body, from) {
            let place = view.body_at() + at as u64;
            self.read(query, view, (place, false), last, matches);
            if view.body[at] == TAG_LEAD {
                self.read(query, view, (place, true), last, matches);
            }
            from = at + 1;
        }
    }

    fn read(
        &mut self,
        query: &Query<'_>,
        view: View<'_>,
        (at, tags): (u64, bool),
        last: bool,
        matches: &mut Matches,
    ) {
        match escaped::read(view, at, tags, last) {
            Reading::Nothing => {}
            Reading::Unknown => self.unread.push((at, tags)),
            Reading::Characters(characters) => characters.grams(view, at, |start, known, gram| {
                if query.filter.has(gram) {
                    self.at_escaped(query, view, (start, known), gram, &characters, last, matches);
                }
            }),
        }
    }

    /// Begins what the gram may be that the text holds escaped from the first of `place` on, which
    /// the second shows.
    #[allow(clippy::too_many_arguments)]
    fn at_escaped(
        &mut self,
        query: &Query<'_>,
        view: View<'_>,
        (start, known): (u64, u64),
        gram: [u8; GRAM],
        characters: &Characters,
        last: bool,
        matches: &mut Matches,
    ) {
        for pattern in query.filter.at(gram) {
            match pattern {
                Pattern::Rule { encoding: Encoding::Plain, .. } if characters.line_break => {}
                Pattern::Rule { rule, keyword, encoding } => {
                    let place =
                        Place { start, known, encoding, escaped: true, tags: characters.tags };
                    self.candidate(query, view, (rule, keyword), &place, last, matches);
                }
                // The others are found by `Forms::escaped`.
                Pattern::Form(form) if characters.folded => {
                    self.follow_form(query, view, form, (start, known), matches);
                }
                Pattern::Form(_) => {}
            }
        }
    }

    fn candidate(
        &mut self,
        query: &Query<'_>,
        view: View<'_>,
        rule: (u16, u16),
        place: &Place,
        last: bool,
        matches: &mut Matches,
    ) {
        if let Some(mut candidate) = Candidate::begin(query, view, rule, place) {
            if candidate.advance(query, view, last, matches) {
                self.candidates.push(candidate);
            }
        }
    }

    fn follow_form(
        &mut self,
        query: &Query<'_>,
        view: View<'_>,
        form: u16,
        (start, known): (u64, u64),
        matches: &mut Matches,
    ) {
        for escapes in query.scanner.forms.all[usize::from(form)].readings() {
            let mut follower = Follower::plain(form, start, known, *escapes);
            if follow(query, view, &mut follower, start, matches) {
                self.followers.push(follower);
            }
        }
    }

    /// Ends a piece that [`Matcher::scan`] has seen: keeps those of its bytes that a candidate may
    /// still need.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn commit(&mut self, piece: &[u8]) {
        let end = self.end + piece.len() as u64;
        let candidates = self.candidates.iter().map(|candidate| candidate.start);
        let needed = candidates
            .chain(self.followers.iter().map(|f| f.third))
            .chain(self.unread.iter().map(|(at, _)| at.saturating_sub(LOOK_BEHIND)))
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
        suspected: false,
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
