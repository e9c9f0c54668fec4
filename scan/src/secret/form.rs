//! The ways to write one of the bundle's secrets.

use zeroize::Zeroizing;

use crate::encode::base64_variants;
use crate::shared::GRAM;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The bytes themselves, any of them escaped.
    Plain,
    /// Base64 in either alphabet, perhaps broken into lines, perhaps escaped.
    Base64,
    /// Digits of either case, perhaps separated.
    Hex,
    /// Either case, perhaps broken into lines.
    Base32,
    /// Bytes as decimal numbers, separated.
    Decimal,
}

/// Which marks begin escapes: a bit for each of `%`, `\` and `&`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Escapes(u8);

impl Escapes {
    pub(crate) fn has(self, mark: u8) -> bool {
        let bit = match mark {
            b'%' => 1,
            b'\\' => 2,
            _ => 4,
        };
        self.0 & bit != 0
    }
}

/// One way to write one secret.
pub(crate) struct Form {
    /// Index of the secret.
    pub(crate) secret: u16,
    pub(super) kind: Kind,
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// So many characters of it, and no more of them, are a finding too. What is held back tells a
    /// guest that can see it how far it has guessed right: it must be stopped, and seen, long
    /// before it has the whole.
    pub(super) enough: u16,
}

/// How many of a secret's bytes must not be there: a third, but more than what many secrets begin
/// with (`sk-ant-api03-`).
pub(super) fn enough(bytes: &[u8]) -> usize {
    let public = bytes[..bytes.len().min(48) / 2]
        .iter()
        .rposition(|b| b"-_.".contains(b))
        .map_or(0, |at| at + 1);
    (public + 8).max(12).max(bytes.len() / 3).min(bytes.len())
}

pub(super) const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

impl Form {
    /// The first bytes by which this form is found.
    pub(crate) fn grams(&self) -> Vec<[u8; GRAM]> {
        let b = &self.bytes;
        let Some(first) = b.first_chunk::<GRAM>() else { return Vec::new() };
        let mut grams = vec![*first];
        match self.kind {
            Kind::Base64 => grams = base64_variants(*first),
            Kind::Hex => {
                grams.extend(b" :-,_%".map(|separator| [b[0], b[1], separator, b[2]]));
                grams.extend([[b[0], b[1], b',', b' '], [b'0', b'x', b[0], b[1]]]);
            }
            Kind::Decimal => {
                let digits = b.iter().take_while(|b| b.is_ascii_digit()).count();
                match digits {
                    3 => grams.extend(b" ;\n".map(|separator| [b[0], b[1], b[2], separator])),
                    2 => grams.extend([
                        [b[0], b[1], b',', b' '],
                        [b[0], b[1], b' ', b[3]],
                        [b[0], b[1], b';', b[3]],
                    ]),
                    _ => {}
                }
            }
            Kind::Plain | Kind::Base32 => {}
        }
        grams
    }

    /// The escapes with which it must be followed, each time anew. Of a secret that has bytes in it
    /// that begin escapes, a text that has only others, or none, holds those bytes as they are.
    pub(crate) fn readings(&self) -> &'static [Escapes] {
        let ambiguous =
            self.kind == Kind::Plain && self.bytes.iter().any(|b| matches!(b, b'%' | b'\\' | b'&'));
        const { &[Escapes(7), Escapes(0), Escapes(1), Escapes(2), Escapes(4)] }
            .get(..if ambiguous { 5 } else { 1 })
            .unwrap_or_default()
    }

    pub(super) fn same(&self, at: usize, byte: u8) -> bool {
        let expected = self.bytes[at];
        match self.kind {
            Kind::Base64 => {
                expected
                    == match byte {
                        b'-' => b'+',
                        b'_' => b'/',
                        other => other,
                    }
            }
            Kind::Decimal => {
                expected == byte
                    || (expected == b',' && matches!(byte, b' ' | b';' | b'\t' | b'\r' | b'\n'))
            }
            Kind::Plain | Kind::Hex | Kind::Base32 => expected.eq_ignore_ascii_case(&byte),
        }
    }

    /// Whether `byte` may stand between the characters `at - 1` and `at`.
    pub(super) fn skips(&self, at: usize, byte: u8) -> bool {
        let white = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        at > 0
            && match self.kind {
                Kind::Plain => false,
                Kind::Base64 => white,
                Kind::Base32 => white || byte == b'-',
                Kind::Hex => {
                    at % 2 == 0
                        && (white || matches!(byte, b':' | b',' | b';' | b'-' | b'_' | b'.' | b'%'))
                }
                Kind::Decimal => self.bytes[at - 1] == b',' && (white || byte == b','),
            }
    }
}
