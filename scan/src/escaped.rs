//! Finds grams that a text holds escaped, with invisible characters between, in other characters
//! that look the same, or broken by the end of a line of Base64.

use crate::encode::base64_value;
use crate::shared::GRAM;
use crate::unescape::{OTHER, Unescape, Unescaped, is_special};
use crate::view::View;

/// Most bytes that a gram may take from its first escape on.
pub(crate) const REACH: usize = 64;

/// The characters from an escape on.
pub(crate) struct Characters {
    chars: [u8; GRAM],
    len: usize,
    /// The last byte that was looked at.
    known: u64,
    /// Whether the escape stands for nothing.
    nothing: bool,
    /// Whether it is no escape, but a character that is folded.
    pub(crate) folded: bool,
    /// Whether it is a line break.
    pub(crate) line_break: bool,
    /// Whether tag characters stand for ASCII.
    pub(crate) tags: bool,
}

/// What begins at a byte that may begin an escape.
pub(crate) enum Reading {
    /// No escape.
    Nothing,
    /// More bytes are needed to say.
    Unknown,
    Characters(Characters),
}

/// The first place from `from` on that is worth a [`read`].
pub(crate) fn next(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(block) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        if block.iter().fold(0, |any, b| any | SPECIAL[usize::from(*b)]) != 0 {
            break;
        }
        at += 8;
    }
    let found = text[at.min(text.len())..].iter().position(|b| SPECIAL[usize::from(*b)] != 0)?;
    Some(at + found)
}

/// 1 for each byte that may begin an escape, and for line breaks.
static SPECIAL: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation)]
        let special = is_special(byte as u8) || byte as u8 == b'\n' || byte as u8 == b'\r';
        table[byte] = special as u8;
        byte += 1;
    }
    table
};

/// The first byte of tag characters.
pub(crate) const TAG_LEAD: u8 = 0xf3;

/// Reads what begins at `at`. With `tags`, tag characters stand for ASCII; else for nothing. With
/// `last` the text ends with the view.
pub(crate) fn read(view: View<'_>, at: u64, tags: bool, last: bool) -> Reading {
    let byte = |i: u64| view.byte(at + i);
    let (Some(first), next) = (byte(0), byte(1)) else { return Reading::Nothing };
    let Some(next) = next else {
        return if last { Reading::Nothing } else { Reading::Unknown };
    };
    let digit = |b: u8| b.is_ascii_hexdigit();
    let line_break = match first {
        b'\n' | b'\r' => true,
        b'\\' => matches!(next, b'n' | b'r'),
        b'%' if next == b'0' => match byte(2) {
            None if !last => return Reading::Unknown,
            third => matches!(third, Some(b'A' | b'a' | b'D' | b'd')),
        },
        _ => false,
    };
    let before = |n: u64| at.checked_sub(n).and_then(|at| view.byte(at));
    let worth = match first {
        // Base64 goes on behind the line break as it was before.
        _ if line_break => before(1).and_then(base64_value).is_some(),
        b'\\' => matches!(next, b'u' | b'U' | b'x' | b'0'..=b'7' | b'/' | b'\\'),
        b'%' => digit(next) || matches!(next, b'u' | b'U'),
        b'&' => next == b'#' || next.is_ascii_lowercase(),
        b'=' => matches!(next, b'2'..=b'7' | b'\r' | b'\n'),
        0 => next != 0,
        _ => true,
    };
    if worth { characters(view, at, last, line_break, tags) } else { Reading::Nothing }
}

fn characters(view: View<'_>, at: u64, last: bool, line_break: bool, tags: bool) -> Reading {
    let mut unescape = Unescape::new(tags);
    let mut found = Characters {
        chars: [0; GRAM],
        len: 0,
        known: at,
        nothing: false,
        folded: !matches!(view.byte(at), Some(b'%' | b'\\' | b'&' | b'\n' | b'\r')),
        line_break,
        tags,
    };
    let (head, body) = view.parts(at, at + REACH as u64);
    let mut first = true;
    for (byte, at) in head.iter().chain(body).zip(at..) {
        found.known = at;
        let (a, b) = match unescape.feed(*byte) {
            Unescaped::More => continue,
            Unescaped::Nothing => {
                found.nothing |= first;
                first = false;
                continue;
            }
            Unescaped::ByteThenMore(_) | Unescaped::Two(..) | Unescaped::Byte(OTHER) if first => {
                return Reading::Nothing;
            }
            Unescaped::Byte(a) | Unescaped::ByteThenMore(a) => (a, None),
            Unescaped::Two(a, b) => (a, Some(b)),
        };
        for char in [Some(a), b].into_iter().flatten() {
            if line_break && matches!(char, b'\n' | b'\r') {
                found.nothing |= first;
            } else if line_break && base64_value(char).is_none() {
                return Reading::Nothing;
            } else if found.len < GRAM {
                found.chars[found.len] = char;
                found.len += 1;
            }
            first = false;
        }
        if found.len == GRAM {
            return Reading::Characters(found);
        }
    }
    if last || found.known + 1 >= at + REACH as u64 {
        Reading::Characters(found)
    } else {
        Reading::Unknown
    }
}

impl Characters {
    /// The grams that have this escape as their first, each with the place where it begins and the
    /// byte that shows it.
    pub(crate) fn grams(
        &self,
        view: View<'_>,
        at: u64,
        mut each: impl FnMut(u64, u64, [u8; GRAM]),
    ) {
        for before in usize::from(self.nothing)..GRAM {
            let Some(start) = at.checked_sub(before as u64) else { break };
            let mut gram = [0; GRAM];
            if before > 0 {
                match view.byte(start) {
                    Some(byte) if SPECIAL[usize::from(byte)] == 0 => {}
                    _ => break,
                }
            }
            for (i, slot) in (0_u64..).zip(&mut gram).take(before) {
                *slot = view.byte(start + i).unwrap_or_default();
            }
            let behind = GRAM - before;
            if self.len >= behind {
                gram[before..].copy_from_slice(&self.chars[..behind]);
                each(start, self.known, gram);
            }
        }
    }
}
