//! Finds where a keyword or a secret may begin: each is known by its first four bytes, and a bit
//! table says of any four bytes whether they are of one.
//!
//! An automaton over all keywords was the other candidate. This is as fast on text, takes
//! microseconds to build rather than milliseconds, and holds four bytes of a secret instead of all
//! of it.

use std::ops::Range;

use zeroize::Zeroize;

use crate::shared::{Encoding, GRAM};

/// What begins with a gram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// A rule's keyword, by their indices.
    Rule { rule: u16, keyword: u16, encoding: Encoding },
    /// A form of a secret, by its index.
    Form(u16),
}

struct Entry {
    gram: u32,
    what: Pattern,
    /// The next entry of the same slot, plus one; 0: none.
    next: u16,
}

const SLOTS: usize = 4096;
/// Bytes of [`Filter::near`], and bits of [`Filter::bits`].
const NEAR: usize = 1 << 16;
const BITS: usize = 1 << 17;

/// The grams of all that is looked for. Letters' case is folded (and a few others with it: a hit is
/// checked anyway).
pub(crate) struct Filter {
    /// 1 for the first three bytes of a gram and for the last three: a byte is read faster than a
    /// bit.
    near: Box<[u8]>,
    bits: Box<[u64]>,
    slots: Box<[u16]>,
    entries: Vec<Entry>,
}

fn fold(gram: [u8; GRAM]) -> u32 {
    u32::from_le_bytes(gram) | 0x2020_2020
}

const FACTOR: u32 = 0x9E37_79B1;

fn hash(gram: u32) -> usize {
    (gram.wrapping_mul(FACTOR) >> (32 - BITS.ilog2())) as usize
}

/// Of the low three bytes.
fn trigram(gram: u32) -> usize {
    (gram.wrapping_mul(FACTOR << 8) >> (32 - NEAR.ilog2())) as usize
}

impl Filter {
    pub(crate) fn new() -> Self {
        Self {
            near: vec![0; NEAR].into(),
            bits: vec![0; BITS / 64].into(),
            slots: vec![0; SLOTS].into(),
            entries: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, gram: [u8; GRAM], what: Pattern) {
        let gram = fold(gram);
        let at = hash(gram);
        let mut next = self.slots[at / 64];
        while let Some(entry) = usize::from(next).checked_sub(1).and_then(|i| self.entries.get(i)) {
            if entry.gram == gram && entry.what == what {
                return;
            }
            next = entry.next;
        }
        let Ok(index) = u16::try_from(self.entries.len() + 1) else { return };
        for trigram in [trigram(gram), trigram(gram >> 8)] {
            self.near[trigram] = 1;
        }
        self.bits[at / 64] |= 1 << (at % 64);
        self.entries.push(Entry { gram, what, next: self.slots[at / 64] });
        self.slots[at / 64] = index;
    }

    /// Whether something may begin with these bytes.
    pub(crate) fn has(&self, gram: [u8; GRAM]) -> bool {
        self.bit(fold(gram))
    }

    fn bit(&self, gram: u32) -> bool {
        let at = hash(gram);
        (self.bits[at / 64] >> (at % 64)) & 1 == 1
    }

    /// The first place from `from` on where something may begin.
    #[inline]
    pub(crate) fn next(&self, text: &[u8], from: usize) -> Option<usize> {
        let near: &[u8; NEAR] = (&*self.near).try_into().ok()?;
        let mut at = from;
        // At every second place only: three bytes of what begins there, or one before, are seen at
        // once.
        while let Some((low, high)) =
            text.get(at..at + 12).and_then(|block| block.first_chunk().zip(block.last_chunk()))
        {
            let word = |bytes: [u8; 8]| u64::from_le_bytes(bytes) | 0x2020_2020_2020_2020;
            let (low, high) = (word(*low), word(*high));
            #[allow(clippy::cast_possible_truncation)]
            let hit = |word: u64, i: usize| near[trigram((word >> (8 * i)) as u32)];
            if hit(low, 0) | hit(low, 2) | hit(high, 0) | hit(high, 2) != 0 {
                if let Some(found) = self.begins(text, at.saturating_sub(1).max(from)..at + 7) {
                    return Some(found);
                }
            }
            at += 8;
        }
        self.begins(text, at.saturating_sub(1).max(from)..text.len())
    }

    /// The first of these places where the gram is one of ours.
    fn begins(&self, text: &[u8], places: Range<usize>) -> Option<usize> {
        let mut places = places;
        places.find(|at| {
            text.get(*at..).and_then(<[u8]>::first_chunk).is_some_and(|gram| self.bit(fold(*gram)))
        })
    }

    /// What may begin with these bytes.
    pub(crate) fn at(&self, gram: [u8; GRAM]) -> impl Iterator<Item = Pattern> + '_ {
        let gram = fold(gram);
        let mut next = self.slots[hash(gram) / 64];
        std::iter::from_fn(move || {
            let entry = self.entries.get(usize::from(next).checked_sub(1)?)?;
            next = entry.next;
            Some(entry)
        })
        .filter(move |entry| entry.gram == gram)
        .map(|entry| entry.what)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.near.zeroize();
        self.bits.zeroize();
        self.entries.iter_mut().for_each(|entry| entry.gram.zeroize());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gram_is_found_at_any_place() {
        let mut filter = Filter::new();
        filter.add(*b"ghp_", Pattern::Form(1));
        filter.add(*b"ghp_", Pattern::Form(2));
        filter.add(*b"ghp_", Pattern::Form(2));
        for at in 0..40 {
            let mut text = vec![b'.'; 44];
            text[at..at + 4].copy_from_slice(b"GHP_");
            for from in 0..=at {
                assert_eq!(filter.next(&text, from), Some(at));
            }
            assert_eq!(filter.next(&text, at + 1), None);
        }
        assert_eq!(filter.at(*b"ghp_").count(), 2);
        assert_eq!(filter.at(*b"ghq_").count(), 0);
    }
}
