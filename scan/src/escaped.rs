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
    loop {
        while let Some(block) = text.get(at..).and_then(|rest| rest.first_chunk::<BLOCK>()) {
            if block.iter().fold(0, |any, b| any | may_be_special(*b)) != 0 {
                if let Some(found) = block.iter().position(|b| SPECIAL[usize::from(*b)] != 0) {
                    at += found;
                    break;
                }
            }
            at += BLOCK;
        }
        at += text.get(at..)?.iter().position(|b| SPECIAL[usize::from(*b)] != 0)?;
        let before = at.checked_sub(1).and_then(|before| text.get(before)).copied();
        // What is cut off is read again with more of the text.
        if at == 0 || is_worth(before, |i| text.get(at + i).copied()) != Some(Worth::Nothing) {
            return Some(at);
        }
        at += 1;
    }
}

/// Bytes that are looked at in one go.
const BLOCK: usize = 16;

/// At least what [`SPECIAL`] says, in a way that the compiler turns into vector instructions.
fn may_be_special(b: u8) -> u8 {
    (b & 0x80)
        | u8::from(b == b'%')
        | u8::from(b == b'\\')
        | u8::from(b == b'&')
        | u8::from(b == b'=')
        | u8::from(b == b'\n')
        | u8::from(b == b'\r')
        | u8::from(b == 0)
}

/// What a place is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    Nothing,
    LineBreak,
    Escape,
}

/// What may begin with the byte 0 that `byte` gives, behind `before`; `None` if more bytes are
/// needed to say.
fn is_worth(before: Option<u8>, byte: impl Fn(usize) -> Option<u8>) -> Option<Worth> {
    let first = byte(0)?;
    let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let escape = match first {
        b'\n' | b'\r' => return line_break(before, byte(1)),
        b'\\' => match byte(1)? {
            b'n' | b'r' => return line_break(before, byte(2)),
            next => matches!(next, b'u' | b'U' | b'x' | b'0'..=b'7' | b'/' | b'\\'),
        },
        b'%' => match (byte(1)?, byte(2)?) {
            (b'0', b'A' | b'a' | b'D' | b'd') => return line_break(before, byte(3)),
            (next, third) => {
                matches!(next, b'u' | b'U') || next.is_ascii_hexdigit() && third.is_ascii_hexdigit()
            }
        },
        b'&' => match byte(1)? {
            b'#' => true,
            next => matches!(
                (next, byte(2)?),
                (b'a', b'm' | b'p') | (b'l' | b'g', b't') | (b'q', b'u') | (b's', b'h')
            ),
        },
        b'=' => match byte(1)? {
            b'\r' | b'\n' => true,
            next => matches!(next, b'2'..=b'7') && upper(byte(2)?),
        },
        0 => byte(1).map(|next| next.is_ascii_graphic() || next >= 0x80)?,
        _ => matches!(byte(1)?, 0x80..0xc0),
    };
    Some(if escape { Worth::Escape } else { Worth::Nothing })
}

/// Base64 goes on behind a line break as it was before.
fn line_break(before: Option<u8>, behind: Option<u8>) -> Option<Worth> {
    if before.and_then(base64_value).is_none() {
        return Some(Worth::Nothing);
    }
    let goes_on = |b| matches!(b, b'\r' | b'\n' | b'\\' | b'%') || base64_value(b).is_some();
    Some(if goes_on(behind?) { Worth::LineBreak } else { Worth::Nothing })
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
    let before = at.checked_sub(1).and_then(|at| view.byte(at));
    match is_worth(before, |i| view.byte(at + i as u64)) {
        Some(Worth::Nothing) => Reading::Nothing,
        None if last => Reading::Nothing,
        None => Reading::Unknown,
        Some(worth) => characters(view, at, last, worth == Worth::LineBreak, tags),
    }
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
