//! One body on its way: what may go on, what is held, what is overwritten.

use bottle_policy::Action;
use bytes::Bytes;

use crate::coding::{self, Decoder, Stop};
use crate::matcher::{Ask, Matcher, Outcome, View};
use crate::{Direction, Finding, Profile, UnknownCoding};

/// Bytes looked at in one go; what is remembered for the time of one go grows with it.
const PIECE: usize = 64 << 10;
/// Bytes of a compressed body that wait for the text in them to be decided.
const HELD: usize = 1 << 20;
/// Bytes by which a body's own format is known.
const MAGIC: usize = 4;

/// One body on its way.
#[derive(Debug)]
pub struct Stream {
    profile: Profile,
    direction: Direction,
    /// Over the body as it is sent.
    sent: Matcher,
    /// Up to where it went on, or to `Coded::held`.
    gone: u64,
    /// What is to be overwritten.
    stars: Vec<(u64, u64)>,
    over: bool,
    coded: Option<Box<Coded>>,
    /// The first bytes of a body without a coding, until they tell whether it is a compressed file.
    magic: Option<([u8; MAGIC], usize)>,
}

/// The text inside a body.
#[derive(Debug)]
struct Coded {
    decoders: Vec<Decoder>,
    text: Matcher,
    held: Vec<Bytes>,
    held_len: usize,
    /// Whether it only looks like a compressed file: then what cannot be decoded is just content.
    guess: bool,
    /// Bytes given to the decoders.
    taken: u64,
}

impl Stream {
    pub(crate) fn new(profile: Profile, direction: Direction, codings: &str) -> Result<Self, UnknownCoding> {
        let decoders = coding::decoders(codings)?;
        let coded = (!decoders.is_empty()).then(|| Box::new(Coded::new(decoders, false)));
        let magic = coded.is_none().then_some(([0; MAGIC], 0));
        let (sent, stars) = (Matcher::default(), Vec::new());
        Ok(Self { profile, direction, sent, gone: 0, stars, over: false, coded, magic })
    }

    /// Takes the next bytes of the body, as sent. What may go on is appended to `out`; what was found to `found`. After a
    /// finding with [`Action::Block`] nothing more comes out, and the request is to be broken off.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<Bytes>, found: &mut Vec<Finding>) {
        let mut rest = chunk;
        while !rest.is_empty() && !self.over {
            let piece = rest.split_to(rest.len().min(PIECE));
            self.take(&piece, false, out, found);
        }
    }

    /// The body has ended: decides what was pending.
    pub fn finish(&mut self, out: &mut Vec<Bytes>, found: &mut Vec<Finding>) {
        if !self.over {
            self.take(&Bytes::new(), true, out, found);
            self.over = true;
        }
    }

    /// Whether all that was pushed has gone on: nothing is being held.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.gone == self.sent.end() && self.coded.as_ref().is_none_or(|coded| coded.held.is_empty())
    }

    fn take(&mut self, piece: &Bytes, last: bool, out: &mut Vec<Bytes>, found: &mut Vec<Finding>) {
        self.guess(piece);
        let ask = self.profile.ask(self.direction, self.coded.is_none());
        let outcome = self.sent.scan(&ask, piece, last);
        let end = self.sent.end() + piece.len() as u64;
        let blocked = report(&self.sent, &ask, outcome, end, &mut self.stars, found);
        let target = blocked.unwrap_or_else(|| self.sent.hold(&ask, end));
        self.over = blocked.is_some();
        let mut pass = Vec::new();
        let Some(coded) = &mut self.coded else {
            emit(self.sent.view(piece), piece, (self.gone, target), &self.stars, out);
            return self.leave(piece, target);
        };
        if blocked.is_none() {
            match coded.look(&ask, piece, last, found) {
                Ok(()) => emit(self.sent.view(piece), piece, (self.gone, target), &[], &mut pass),
                Err(stop) => {
                    self.over = true;
                    let rule = match stop {
                        Stop::Found => return,
                        Stop::Bomb => &ask.scanner.bomb,
                        Stop::Corrupt => &ask.scanner.coding,
                    };
                    found.push(Finding::of_coding(rule, coded.taken));
                    return;
                }
            }
            coded.held_len += pass.iter().map(Bytes::len).sum::<usize>();
            coded.held.append(&mut pass);
            if last || !coded.waits(&ask) {
                coded.held_len = 0;
                out.append(&mut coded.held);
            } else if coded.held_len > HELD {
                self.over = true;
                found.push(Finding::of_coding(&ask.scanner.coding, coded.taken));
                return;
            }
        }
        self.leave(piece, target);
    }

    fn leave(&mut self, piece: &[u8], target: u64) {
        self.sent.commit(piece);
        self.gone = self.gone.max(target);
        self.stars.retain(|(_, to)| *to > target);
    }

    /// Whether a body without a coding is a compressed file: then the text in it is looked at, too.
    fn guess(&mut self, piece: &[u8]) {
        let Some((first, len)) = &mut self.magic else { return };
        let before = *len;
        let more = piece.len().min(MAGIC - before);
        first[before..before + more].copy_from_slice(&piece[..more]);
        *len += more;
        match coding::guess(&first[..*len]) {
            coding::Guess::Short => return,
            coding::Guess::None => {}
            coding::Guess::Is(decoder) => {
                let mut coded = Coded::new(vec![decoder], true);
                let ask = self.profile.ask(self.direction, false);
                if coded.look(&ask, &first[..before], false, &mut Vec::new()).is_ok() {
                    self.coded = Some(Box::new(coded));
                }
            }
        }
        self.magic = None;
    }
}

impl Coded {
    fn new(decoders: Vec<Decoder>, guess: bool) -> Self {
        Self { decoders, text: Matcher::default(), held: Vec::new(), held_len: 0, guess, taken: 0 }
    }

    fn look(&mut self, ask: &Ask<'_>, piece: &[u8], last: bool, found: &mut Vec<Finding>) -> Result<(), Stop> {
        self.taken += piece.len() as u64;
        let text = &mut self.text;
        let mut see = |decoded: &[u8], last: bool| {
            let outcome = text.scan(ask, decoded, last);
            let end = text.end() + decoded.len() as u64;
            let blocked = report(text, ask, outcome, end, &mut Vec::new(), found);
            text.commit(decoded);
            if blocked.is_some() { Err(Stop::Found) } else { Ok(()) }
        };
        let mut done = coding::run(&mut self.decoders, piece, self.taken, &mut |decoded| see(decoded, false));
        if last && done.is_ok() {
            done = if self.taken == 0 { Ok(()) } else { coding::finish(&self.decoders) }; // no body at all is fine
        }
        match done {
            Err(Stop::Corrupt) if self.guess => {
                self.decoders = vec![Decoder::nothing()];
                see(&[], true)
            }
            Ok(()) if last => see(&[], true),
            done => done,
        }
    }

    /// Whether something is pending in the text, or has not been decoded yet.
    fn waits(&self, ask: &Ask<'_>) -> bool {
        self.text.hold(ask, self.text.end()) < self.text.end() || self.decoders.iter().any(Decoder::lags)
    }
}

/// Hands over the finds up to the first that blocks; then, up to where the text may go on.
fn report(text: &Matcher, ask: &Ask<'_>, outcome: Outcome, end: u64, stars: &mut Vec<(u64, u64)>, found: &mut Vec<Finding>) -> Option<u64> {
    if outcome.is_empty() {
        return None;
    }
    let (events, holds) = outcome.sorted();
    for event in events {
        let action = event.finding.action;
        let stop = (action == Action::Block).then(|| text.stop(ask, &holds, &event, end));
        if action == Action::Redact {
            stars.push(event.stars);
        }
        found.push(event.finding);
        if stop.is_some() {
            return stop;
        }
    }
    None
}

/// Lets the bytes of a range go on, those that `stars` name overwritten.
fn emit(view: View<'_>, piece: &Bytes, (from, to): (u64, u64), stars: &[(u64, u64)], out: &mut Vec<Bytes>) {
    if from >= to {
        return;
    }
    let (head, body) = view.parts(from, to);
    let head_end = from + head.len() as u64;
    for (part, at, own) in [(head, from, false), (body, head_end, true)] {
        let end = at + part.len() as u64;
        let hit = |(from, to): &(u64, u64)| *from < end && *to > at;
        if part.is_empty() {
            continue;
        }
        if stars.iter().any(hit) {
            let mut part = part.to_vec();
            for (from, to) in stars.iter().filter(|star| hit(star)) {
                let index = |place: u64| usize::try_from(place.saturating_sub(at)).map_or(part.len(), |i| i.min(part.len()));
                let range = index(*from)..index(*to);
                part[range].fill(b'*');
            }
            out.push(part.into());
        } else if own {
            out.push(piece.slice_ref(part));
        } else {
            out.push(Bytes::copy_from_slice(part));
        }
    }
}
