//! Finds where a keyword or a secret may begin: each is known by its first four bytes, and a bit table says of any four bytes
//! whether they are of one.
//!
//! An automaton over all keywords was the other candidate. This is as fast on text, takes microseconds to build rather than
//! milliseconds, and holds four bytes of a secret instead of all of it.

use zeroize::Zeroize;

/// What begins with a gram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A rule's keyword, by their indices.
    Rule { rule: u16, keyword: u16 },
    /// A form of a secret, by its index.
    Form(u16),
}

struct Entry {
    gram: u32,
    what: What,
    /// The next entry of the same slot, plus one; 0: none.
    next: u16,
}

/// Bytes of a gram.
pub(crate) const GRAM: usize = 4;
const SLOTS: usize = 1024;

/// The grams of all that is looked for. Letters' case is folded (and a few others with it: a hit is checked anyway).
pub(crate) struct Filter {
    bits: Box<[u64]>,
    slots: Box<[u16]>,
    entries: Vec<Entry>,
}

fn fold(gram: [u8; GRAM]) -> u32 {
    u32::from_le_bytes(gram) | 0x2020_2020
}

fn hash(gram: u32) -> usize {
    (gram.wrapping_mul(0x9E37_79B1) >> 16) as usize
}

impl Filter {
    pub(crate) fn new() -> Self {
        Self { bits: vec![0; 1024].into(), slots: vec![0; SLOTS].into(), entries: Vec::new() }
    }

    pub(crate) fn add(&mut self, gram: [u8; GRAM], what: What) {
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
        self.bits[at / 64] |= 1 << (at % 64);
        self.entries.push(Entry { gram, what, next: self.slots[at / 64] });
        self.slots[at / 64] = index;
    }

    /// The first place from `from` on where something may begin.
    #[inline]
    pub(crate) fn next(&self, text: &[u8], from: usize) -> Option<usize> {
        let bits: &[u64; 1024] = (&*self.bits).try_into().ok()?;
        let hit = |gram: [u8; GRAM]| {
            let at = hash(fold(gram));
            (bits[at / 64 % 1024] >> (at % 64)) & 1
        };
        let mut at = from;
        // Eight places at once: four in each of two words of eight bytes would need three more bytes, so eleven are read.
        while let Some(block) = text.get(at..at + 11) {
            let mut any = 0;
            for i in 0..8 {
                any |= hit([block[i], block[i + 1], block[i + 2], block[i + 3]]) << i;
            }
            if any != 0 {
                return Some(at + any.trailing_zeros() as usize);
            }
            at += 8;
        }
        let rest = text.get(at..)?;
        rest.windows(GRAM).position(|w| hit([w[0], w[1], w[2], w[3]]) != 0).map(|i| at + i)
    }

    /// What may begin with these bytes.
    pub(crate) fn at(&self, gram: [u8; GRAM]) -> impl Iterator<Item = What> + '_ {
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
        filter.add(*b"ghp_", What::Form(1));
        filter.add(*b"ghp_", What::Form(2));
        filter.add(*b"ghp_", What::Form(2));
        for at in 0..40 {
            let mut text = vec![b'.'; 44];
            text[at..at + 4].copy_from_slice(b"GHP_");
            assert_eq!(filter.next(&text, 0), Some(at));
            assert_eq!(filter.next(&text, at + 1), None);
        }
        assert_eq!(filter.at(*b"ghp_").count(), 2);
        assert_eq!(filter.at(*b"ghq_").count(), 0);
    }
}
