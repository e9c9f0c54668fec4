//! One body on its way: what may go on, what is held, what is overwritten.

use std::collections::VecDeque;

use bottle_policy::Action;
use bytes::Bytes;

use crate::coding::{self, Decoder, Stop};
use crate::matcher::Matcher;
use crate::profile::Profile;
use crate::scanner::Query;
use crate::shared::{Direction, Finding, UnknownCoding};
use crate::view::View;

/// Bytes looked at in one go; what is remembered for the time of one go grows with it.
const PIECE: usize = 64 << 10;
/// Bytes of a compressed body that wait for the text in them to be decided.
const HELD: usize = 1 << 20;
/// HeldBytes bytes that come in smaller pieces than this are put together.
const SMALL: usize = 512;
/// Bytes by which a body's own format is known.
const MAGIC: usize = 4;

/// One body on its way.
#[derive(Debug)]
pub struct Stream {
    profile: Profile,
    direction: Direction,
    /// Over the body as it is sent.
    sent: Matcher,
    /// Up to where it went on, or to `CodedBody::held`.
    gone: u64,
    /// What is to be overwritten.
    masks: Vec<(u64, u64)>,
    over: bool,
    coded: Option<Box<CodedBody>>,
    /// The first bytes of a body without a coding, until they tell whether it is a compressed file.
    magic: Option<([u8; MAGIC], usize)>,
}

/// The text inside a body.
#[derive(Debug)]
struct CodedBody {
    decoders: Vec<Decoder>,
    text: Matcher,
    held: VecDeque<HeldBytes>,
    held_len: usize,
    /// Whether it only looks like a compressed file: then what cannot be decoded is just content.
    guess: bool,
    /// Bytes given to the decoders.
    taken: u64,
}

/// Bytes that wait until all that they stand for is decided.
#[derive(Debug)]
struct HeldBytes {
    bytes: Bytes,
    /// How many of the decoders are done with it, and how far the next must get.
    decoders: usize,
    until: u64,
}

impl Stream {
    pub(crate) fn new(
        profile: Profile,
        direction: Direction,
        codings: &str,
    ) -> Result<Self, UnknownCoding> {
        let decoders = coding::decoders(codings)?;
        let coded = (!decoders.is_empty()).then(|| Box::new(CodedBody::new(decoders, false)));
        let magic = coded.is_none().then_some(([0; MAGIC], 0));
        let (sent, masks) = (Matcher::default(), Vec::new());
        Ok(Self { profile, direction, sent, gone: 0, masks, over: false, coded, magic })
    }

    /// Takes the next bytes of the body, as sent. What may go on is appended to `out`; what was
    /// found to `found`. After a finding with [`Action::Block`] nothing more comes out, and the
    /// request is to be broken off.
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
        self.gone == self.sent.end()
            && self.coded.as_ref().is_none_or(|coded| coded.held.is_empty())
    }

    fn take(&mut self, piece: &Bytes, last: bool, out: &mut Vec<Bytes>, found: &mut Vec<Finding>) {
        self.guess(piece);
        let Some(coded) = &mut self.coded else {
            let query = self.profile.query(self.direction, true);
            let target = step(&mut self.sent, &query, piece, last, &mut self.masks, found);
            let (Ok(target) | Err(target)) = target.inspect_err(|_| self.over = true);
            emit(self.sent.view(piece), piece, (self.gone, target), &self.masks, out);
            return self.leave(piece, target);
        };
        let query = self.profile.query(self.direction, false);
        if let Err(stop) = coded.look(&query, piece, last, found) {
            self.over = true;
            match stop {
                Stop::Found => {}
                Stop::Bomb => found.push(Finding::of_coding(&query.scanner.bomb, coded.taken)),
                Stop::Corrupt => found.push(Finding::of_coding(&query.scanner.coding, coded.taken)),
            }
            return;
        }
        // A coding has room for what is no part of its text, such as the name of a file: there the
        // bundle's secrets are looked for.
        let query =
            if coded.guess { query } else { self.profile.query_for_secrets(self.direction) };
        let Ok(target) = step(&mut self.sent, &query, piece, last, &mut self.masks, found) else {
            self.over = true;
            return;
        };
        let mut pass = Vec::new();
        emit(self.sent.view(piece), piece, (self.gone, target), &[], &mut pass);
        if !coded.hold(&query, pass, last, out) {
            self.over = true;
            found.push(Finding::of_coding(&query.scanner.coding, coded.taken));
            return;
        }
        self.leave(piece, target);
    }

    fn leave(&mut self, piece: &[u8], target: u64) {
        self.sent.commit(piece);
        self.gone = self.gone.max(target);
        self.masks.retain(|(_, to)| *to > target);
    }

    /// Whether a body without a coding is a compressed file: then the text in it is looked at, too.
    fn guess(&mut self, piece: &[u8]) {
        let Some((first, len)) = &mut self.magic else { return };
        let before = *len;
        let more = piece.len().min(MAGIC - before);
        first[before..before + more].copy_from_slice(&piece[..more]);
        *len += more;
        match coding::sniff(&first[..*len]) {
            coding::Sniff::Short => return,
            coding::Sniff::None => {}
            coding::Sniff::Is(decoder) => {
                let mut coded = CodedBody::new(vec![decoder], true);
                let query = self.profile.query(self.direction, false);
                if coded.look(&query, &first[..before], false, &mut Vec::new()).is_ok() {
                    self.coded = Some(Box::new(coded));
                }
            }
        }
        self.magic = None;
    }
}

impl CodedBody {
    fn new(decoders: Vec<Decoder>, guess: bool) -> Self {
        Self {
            decoders,
            text: Matcher::default(),
            held: VecDeque::new(),
            held_len: 0,
            guess,
            taken: 0,
        }
    }

    fn look(
        &mut self,
        query: &Query<'_>,
        piece: &[u8],
        last: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Stop> {
        self.taken += piece.len() as u64;
        let text = &mut self.text;
        let mut see = |decoded: &[u8], last: bool| {
            let done = step(text, query, decoded, last, &mut Vec::new(), found);
            text.commit(decoded);
            done.map(drop).map_err(|_| Stop::Found)
        };
        let mut done =
            coding::run(&mut self.decoders, piece, self.taken, &mut |decoded| see(decoded, false));
        if last && done.is_ok() {
            // An empty body needs no end of its coding.
            done = if self.taken == 0 { Ok(()) } else { coding::finish(&self.decoders) };
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

    /// Lets go on what is decided, `new` being the newest bytes; whether what is not is little
    /// enough.
    fn hold(
        &mut self,
        query: &Query<'_>,
        new: Vec<Bytes>,
        last: bool,
        out: &mut Vec<Bytes>,
    ) -> bool {
        let until = self.decoders.first().map_or(0, Decoder::taken);
        for bytes in new {
            self.held_len += bytes.len();
            match self
                .held
                .back_mut()
                .filter(|back| back.decoders == 0 && back.bytes.len() + bytes.len() <= SMALL)
            {
                Some(back) => {
                    back.bytes = [&back.bytes[..], &bytes].concat().into();
                    back.until = until;
                }
                None => self.held.push_back(HeldBytes { bytes, decoders: 0, until }),
            }
        }
        let decided = self.text.hold(query, self.text.end()) == self.text.end();
        while let Some(held) = self.held.front_mut() {
            while self
                .decoders
                .get(held.decoders)
                .is_some_and(|decoder| decoder.done() >= held.until)
            {
                held.decoders += 1;
                held.until = self.decoders.get(held.decoders).map_or(0, Decoder::taken);
            }
            if !last && (!decided || held.decoders < self.decoders.len()) {
                break;
            }
            self.held_len -= held.bytes.len();
            out.extend(self.held.pop_front().map(|held| held.bytes));
        }
        self.held_len <= HELD
    }
}

/// Looks at the next piece of a text and hands over the findings, up to the first that blocks. Gives
/// up to where the text may go on; as an error, up to where it may before it is blocked.
fn step(
    text: &mut Matcher,
    query: &Query<'_>,
    piece: &[u8],
    last: bool,
    masks: &mut Vec<(u64, u64)>,
    found: &mut Vec<Finding>,
) -> Result<u64, u64> {
    let matches = text.scan(query, piece, last);
    let end = text.end() + piece.len() as u64;
    if matches.is_empty() {
        return Ok(text.hold(query, end));
    }
    let (events, holds) = matches.sorted();
    for event in events {
        let action = event.finding.action;
        let stop = (action == Action::Block).then(|| text.stop(query, &holds, &event, end));
        if action == Action::Redact {
            masks.push(event.masks);
        }
        found.push(event.finding);
        if let Some(stop) = stop {
            return Err(stop);
        }
    }
    Ok(text.hold(query, end))
}

/// Lets the bytes of a range go on, those that `masks` name overwritten.
fn emit(
    view: View<'_>,
    piece: &Bytes,
    (from, to): (u64, u64),
    masks: &[(u64, u64)],
    out: &mut Vec<Bytes>,
) {
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
        if masks.iter().any(hit) {
            let mut part = part.to_vec();
            for (from, to) in masks.iter().filter(|star| hit(star)) {
                let index = |place: u64| {
                    usize::try_from(place.saturating_sub(at))
                        .map_or(part.len(), |i| i.min(part.len()))
                };
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

impl Profile {
    /// Begins a body. `codings` is the value of its Content-Encoding, empty for none.
    ///
    /// # Errors
    /// A coding that cannot be looked into.
    pub fn stream(&self, direction: Direction, codings: &str) -> Result<Stream, UnknownCoding> {
        Stream::new(self.clone(), direction, codings)
    }
}
