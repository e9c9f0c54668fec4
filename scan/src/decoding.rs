//! The bytes of a candidate that are not written as they are: escaped, in Base64, or in hex.

use crate::encode::base64_value;
use crate::shared::{Encoding, Place};
use crate::unescape::{Unescape, Unescaped};
use crate::view::View;

/// Most bytes of a text that one candidate may take, escapes and line breaks included.
const REACH: u64 = 8192;

/// What is between two digits of an encoding.
#[derive(Debug, Clone, Copy)]
enum Digits {
    Plain,
    /// The bits that are left of the digits so far, and how many they are.
    Base64 {
        bits: u32,
        len: u8,
    },
    /// The first digit of a pair.
    Hex {
        high: Option<u8>,
    },
}

/// A candidate as it is decoded.
#[derive(Debug)]
pub(crate) struct Decoding {
    unescape: Unescape,
    digits: Digits,
    start: u64,
    /// What it stands for, from its keyword on.
    pub(crate) bytes: Vec<u8>,
    /// The next byte of the text.
    next: u64,
    /// The byte of the text that showed that there may be a candidate.
    pub(crate) known: u64,
    /// From where on the text is held: after the keyword, once that is there.
    pub(crate) hold: Option<u64>,
    /// Whether it may go on in neighbouring fields.
    joins: bool,
    /// Where the parts end that are in several fields, in `bytes`.
    pub(crate) parts: Vec<usize>,
    /// Separators since the last part; 0 within one.
    separators: u8,
    /// Whether one of them ends a field: prose has white space, commas and colons, too.
    field_ended: bool,
}

/// Most parts of a candidate that is cut over several fields, their names included.
const MAX_PARTS: usize = 16;
/// Most separators between two parts.
const MAX_SEPARATORS: u8 = 16;

/// Whether a byte may stand between the parts of a candidate that is cut over neighbouring fields:
/// of a JSON array or object, a query, a path, a list in a header.
pub(crate) fn is_separator(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b',' | b':' | b';' | b'&' | b'=' | b'/' | b' ' | b'\t')
}

impl Decoding {
    fn new(start: u64, known: u64, tags: bool) -> Self {
        let (unescape, bytes) = (Unescape::new(tags), Vec::new());
        Self {
            unescape,
            digits: Digits::Plain,
            start,
            bytes,
            next: start,
            known,
            hold: None,
            joins: false,
            parts: Vec::new(),
            separators: 0,
            field_ended: false,
        }
    }

    /// A candidate whose first bytes are escaped.
    pub(crate) fn plain(place: &Place) -> Self {
        Self::new(place.start, place.known, place.tags)
    }

    /// A candidate in whose keyword the byte at `known` begins an escape.
    pub(crate) fn from_start(start: u64, known: u64) -> Self {
        Self::new(start, known, false)
    }

    /// A candidate behind whose `keyword` something is escaped, or which `joins` what is in the
    /// next field: as it stands, the text up to `known` showed nothing.
    pub(crate) fn after_keyword(
        start: u64,
        keyword: &[u8],
        joins: bool,
        (hold, known): (u64, u64),
    ) -> Self {
        let mut decoding = Self::new(start, known, false);
        decoding.joins = joins;
        decoding.bytes.extend_from_slice(keyword);
        decoding.next += keyword.len() as u64;
        decoding.hold = Some(hold);
        decoding
    }

    /// A candidate in Base64 or hex, if `allows` the byte before it.
    pub(crate) fn encoded(
        view: View<'_>,
        place: &Place,
        allows: impl Fn(Option<u8>) -> bool,
    ) -> Option<Self> {
        let back = |n: u64| place.start.checked_sub(n).and_then(|at| view.byte(at));
        let mut decoding = Self::new(place.start, place.known, place.tags);
        let before = match place.encoding {
            Encoding::Plain => return None,
            Encoding::Hex => {
                decoding.digits = Digits::Hex { high: None };
                let digit = |n| back(n).and_then(|b| char::from(b).to_digit(16));
                digit(2).zip(digit(1)).map(|(high, low)| (high << 4) | low)
            }
            Encoding::Base64 { before } => {
                // A group goes on over a line break.
                let skip = if before > 0 { line_break_before(view, place.start) } else { 0 };
                let digit = |n| back(n + skip).and_then(base64_value).map(u32::from);
                // Bits of the first byte that the digit before has.
                let len = [0, 4, 2][usize::from(before.min(2))];
                let bits = if len > 0 { digit(1)? & ((1 << len) - 1) } else { 0 };
                decoding.digits = Digits::Base64 { bits, len };
                digit(2).zip(digit(1)).map(|(first, second)| ((first << 6) | second) >> len)
            }
        };
        let before = before.and_then(|before| u8::try_from(before & 0xff).ok());
        allows(before).then_some(decoding)
    }

    /// Goes on with the text. `takes` says whether a byte continues the bytes so far, of which the
    /// first `keyword` ones are the keyword. Where the candidate ends, if it does.
    pub(crate) fn advance(
        &mut self,
        view: View<'_>,
        last: bool,
        takes: impl Fn(&[u8], u8) -> bool,
        keyword: usize,
    ) -> Option<u64> {
        let (head, body) = view.parts(self.next, view.end());
        for (byte, at) in head.iter().chain(body).zip(self.next..) {
            let goes_on = at - self.start < REACH
                && match self.unescape.feed(*byte) {
                    Unescaped::More | Unescaped::Nothing => true,
                    Unescaped::Byte(b) | Unescaped::ByteThenMore(b) => {
                        self.char(b, at, &takes, keyword)
                    }
                    Unescaped::Two(a, b) => {
                        self.char(a, at, &takes, keyword) && self.char(b, at, &takes, keyword)
                    }
                };
            if !goes_on {
                return Some(at);
            }
        }
        self.next = self.next.max(view.end());
        last.then_some(view.end())
    }

    /// Takes a character; whether the candidate goes on.
    fn char(
        &mut self,
        char: u8,
        at: u64,
        takes: &impl Fn(&[u8], u8) -> bool,
        keyword: usize,
    ) -> bool {
        let white = matches!(char, b'\n' | b'\r' | b'\t' | b' ');
        let byte = match &mut self.digits {
            Digits::Plain => char,
            Digits::Base64 { .. } | Digits::Hex { .. } if white => return true,
            Digits::Base64 { bits, len } => {
                let Some(value) = base64_value(char) else { return false };
                *bits = ((*bits << 6) | u32::from(value)) & 0x3fff;
                *len += 6;
                if *len < 8 {
                    return true;
                }
                *len -= 8;
                #[allow(clippy::cast_possible_truncation)] // of eight bits
                let byte = (*bits >> *len) as u8;
                byte
            }
            Digits::Hex { high } => {
                let digit = char::from(char).to_digit(16).and_then(|d| u8::try_from(d).ok());
                let Some(digit) = digit else { return false };
                match high.take() {
                    None => {
                        *high = Some(digit);
                        return true;
                    }
                    Some(high) => (high << 4) | digit,
                }
            }
        };
        if !takes(&self.bytes, byte) || self.separators > 0 && is_separator(byte) {
            return self.separate(byte, keyword);
        }
        if self.separators > 0 && !self.field_ended {
            return false;
        }
        (self.separators, self.field_ended) = (0, false);
        self.bytes.push(byte);
        if self.bytes.len() == keyword {
            self.hold = Some((at + 1).max(self.known));
        }
        true
    }

    /// Takes a byte that is no part of the candidate; whether it may go on behind it.
    fn separate(&mut self, byte: u8, keyword: usize) -> bool {
        if !self.joins || !is_separator(byte) || self.bytes.len() <= keyword {
            return false;
        }
        let behind_a_part = self.separators == 0;
        if behind_a_part {
            self.parts.push(self.bytes.len());
        }
        // What stands before a colon or an equals sign is the name of a field.
        if byte == b':' || byte == b'=' && behind_a_part {
            if let [.., before, _] = self.parts[..] {
                self.parts.pop();
                self.bytes.truncate(before);
                self.field_ended = true;
            }
        }
        self.separators += 1;
        self.field_ended |= matches!(byte, b'"' | b'\'' | b'&' | b'/' | b';');
        self.separators <= MAX_SEPARATORS && self.parts.len() <= MAX_PARTS
    }
}

/// How many bytes of line breaks, escaped or not, stand before `at`.
fn line_break_before(view: View<'_>, at: u64) -> u64 {
    let back = |n: u64| at.checked_sub(n).and_then(|at| view.byte(at));
    let mut len = 0;
    while len < 8 {
        len += match (back(len + 3), back(len + 2), back(len + 1)) {
            (_, _, Some(b'\n' | b'\r')) => 1,
            (_, Some(b'\\'), Some(b'n' | b'r')) => 2,
            (Some(b'%'), Some(b'0'), Some(b'A' | b'a' | b'D' | b'd')) => 3,
            _ => break,
        };
    }
    len
}
