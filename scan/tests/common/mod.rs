//! What the tests share.
#![allow(dead_code)] // not every test uses all of it

use std::sync::Arc;

use bottle_policy::{Scan, Secret};
use bottle_scan::{Direction, Finding, Profile, Scanner};
use bytes::Bytes;

/// A small generator (xorshift64*): the same numbers each time.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A secret that none of the rules would find.
pub const SECRET: &str = "quokka-Vault+7/lemon_Tree~42";
/// One of `user:password`, with bytes that begin escapes.
pub const BASIC: &str = "robot:p%41ss&w\\ord 9";

pub fn scanner() -> Arc<Scanner> {
    let secret =
        |name: &str, value: &str| (name.parse().expect("name"), Secret::new(value.to_owned()));
    Scanner::new(&[secret("QUOKKA", SECRET), secret("ROBOT", BASIC), secret("SHORT", "1234567")])
}

pub fn profile() -> Profile {
    scanner().profile(&Scan { responses: true, ..Scan::default() }).expect("profile")
}

/// What came of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    pub out: Vec<u8>,
    pub found: Vec<Finding>,
}

impl Passed {
    pub fn rules(&self) -> Vec<&str> {
        self.found.iter().map(|f| &*f.rule).collect()
    }
}

/// Sends a body in pieces that end at `cuts`.
pub fn pass(
    profile: &Profile,
    direction: Direction,
    codings: &str,
    body: &[u8],
    cuts: &[usize],
) -> Passed {
    let mut stream = profile.stream(direction, codings).expect("stream");
    let (mut out, mut found) = (Vec::new(), Vec::new());
    let body = Bytes::copy_from_slice(body);
    let mut from = 0;
    for cut in cuts.iter().copied().chain([body.len()]) {
        stream.push(body.slice(from..cut), &mut out, &mut found);
        from = cut;
    }
    stream.finish(&mut out, &mut found);
    Passed { out: out.concat(), found }
}

/// Cuts that a generator chose: sometimes after each byte.
pub fn cuts(random: &mut Random, len: usize) -> Vec<usize> {
    let step = if len > 10_000 { 1000 } else { *random.pick(&[1, 1, 2, 3, 7, 40, 1000]) };
    let mut at = 0;
    std::iter::from_fn(move || {
        at += 1 + random.below(step);
        (at < len).then_some(at)
    })
    .collect()
}
