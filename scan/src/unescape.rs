//! Undoes the escapes of a text byte by byte, and folds its characters to ASCII.
//!
//! Escapes of all kinds are undone at once, because a text rarely says which of them it uses: JSON
//! and string literals (`\u0041`, `\x41`, `\101`, `\/`), percent encoding (`%41`, `%u0041`), XML and
//! HTML references (`&#65;`, `&amp;`), quoted-printable (`=41`, soft line breaks). The text as it is
//! has been looked at before, so a wrong guess loses nothing. Of what turns out to be no escape, the mark and the byte that
//! shows it remain.

use crate::fold::{Folded, fold, is_lead};

/// What a byte completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unescaped {
    /// The escape or the character is not complete.
    More,
    /// Nothing: an invisible character, or a soft line break.
    Nothing,
    /// This character; [`OTHER`] for one that no token contains.
    Byte(u8),
    /// A mark that begins no escape after all, and the byte behind it, which is no mark itself.
    Two(u8, u8),
    /// A mark that begins no escape after all; another mark follows, and is not complete.
    ByteThenMore(u8),
}

/// Stands for every character that does not fold to ASCII.
pub(crate) const OTHER: u8 = 0xff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    Backslash,
    /// Hex digits to come, and the value so far; whether it is a code point rather than a byte.
    Hex {
        mark: u8,
        left: u8,
        value: u32,
        code: bool,
    },
    /// `\u{…}`
    Braced {
        value: u32,
    },
    Octal {
        left: u8,
        value: u32,
    },
    Percent,
    Ampersand,
    /// `&#…;`, base 0 until its first digit is known.
    Number {
        base: u32,
        value: u32,
        digits: u8,
    },
    Named {
        name: [u8; 4],
        len: u8,
    },
    /// Just after `=`.
    Equals,
    /// After `=` and a carriage return.
    SoftBreak,
}

/// The state of a text between two bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unescape {
    state: State,
    /// Bytes of a UTF-8 character to come, and its code point so far.
    left: u8,
    code: u32,
    /// The first half of a UTF-16 surrogate pair.
    high: u32,
    /// Whether tag characters stand for ASCII.
    tags: bool,
}

/// Whether a byte may begin an escape, or a character that is folded.
pub(crate) const fn is_special(byte: u8) -> bool {
    byte == 0 || mark(byte).is_some() || is_lead(byte)
}

impl Unescape {
    pub(crate) fn new(tags: bool) -> Self {
        Self { state: State::Text, left: 0, code: 0, high: 0, tags }
    }

    /// Takes the next byte.
    pub(crate) fn feed(&mut self, byte: u8) -> Unescaped {
        match self.state {
            State::Text => self.text(byte),
            State::Backslash => self.backslash(byte),
            State::Hex { mark, left, value, code } => match hex(byte) {
                Some(digit) if left > 1 => self.stay(State::Hex {
                    mark,
                    left: left - 1,
                    value: (value << 4) | digit,
                    code,
                }),
                Some(digit) => self.number((value << 4) | digit, code),
                None if byte == b'{' && mark == b'\\' && left == 4 => {
                    self.stay(State::Braced { value: 0 })
                }
                None => self.give_up(mark, byte),
            },
            State::Braced { value } => match (byte, hex(byte)) {
                (b'}', _) => self.number(value, true),
                (_, Some(digit)) if value < 0x0011_0000 => {
                    self.stay(State::Braced { value: (value << 4) | digit })
                }
                _ => self.give_up(b'\\', byte),
            },
            State::Octal { left, value } => match byte {
                b'0'..=b'7' if left > 1 => self.stay(State::Octal {
                    left: left - 1,
                    value: (value << 3) | u32::from(byte - b'0'),
                }),
                b'0'..=b'7' => self.number(((value << 3) | u32::from(byte - b'0')) & 0xff, false),
                _ => self.give_up(b'\\', byte),
            },
            State::Percent => match (byte, hex(byte)) {
                (b'u' | b'U', _) => {
                    self.stay(State::Hex { mark: b'%', left: 4, value: 0, code: true })
                }
                (_, Some(value)) => {
                    self.stay(State::Hex { mark: b'%', left: 1, value, code: false })
                }
                _ => self.give_up(b'%', byte),
            },
            State::Ampersand => match byte {
                b'#' => self.stay(State::Number { base: 0, value: 0, digits: 0 }),
                b'a'..=b'z' => self.stay(State::Named { name: [byte, 0, 0, 0], len: 1 }),
                _ => self.give_up(b'&', byte),
            },
            State::Number { base, value, digits } => self.reference(base, value, digits, byte),
            State::Named { name, len } => self.named(name, len, byte),
            State::Equals => match (byte, hex(byte)) {
                (b'\n', _) => self.nothing(),
                (b'\r', _) => self.stay(State::SoftBreak),
                // In quoted-printable the digits are upper-case.
                (b'2'..=b'7', Some(value)) => {
                    self.stay(State::Hex { mark: b'=', left: 1, value, code: false })
                }
                _ => self.give_up(b'=', byte),
            },
            State::SoftBreak if byte == b'\n' => self.nothing(),
            State::SoftBreak => self.give_up(b'=', byte),
        }
    }

    fn text(&mut self, byte: u8) -> Unescaped {
        if byte >= 0x80 {
            return self.utf8(byte);
        }
        if let Some(state) = mark(byte) {
            // The character may go on with an escaped byte.
            return self.stay(state);
        }
        let cut_off = std::mem::take(&mut self.left) > 0;
        match byte {
            0 if cut_off => Unescaped::Byte(OTHER),
            0 => Unescaped::Nothing,
            _ if cut_off => Unescaped::Two(OTHER, byte),
            _ => Unescaped::Byte(byte),
        }
    }

    /// A byte of a character that is not ASCII, of the text itself or percent-encoded.
    fn utf8(&mut self, byte: u8) -> Unescaped {
        self.state = State::Text;
        let (left, code) = match byte {
            0x80..0xc0 if self.left > 0 => {
                self.left -= 1;
                self.code = (self.code << 6) | u32::from(byte & 0x3f);
                return if self.left == 0 { self.folded(self.code) } else { Unescaped::More };
            }
            0xc2..0xe0 => (1, byte & 0x1f),
            0xe0..0xf0 => (2, byte & 0x0f),
            0xf0..0xf5 => (3, byte & 0x07),
            _ => {
                self.left = 0;
                return Unescaped::Byte(OTHER);
            }
        };
        (self.left, self.code) = (left, u32::from(code));
        Unescaped::More
    }

    fn backslash(&mut self, byte: u8) -> Unescaped {
        let hex = |left, code| State::Hex { mark: b'\\', left, value: 0, code };
        match byte {
            b'u' => self.stay(hex(4, true)),
            b'U' => self.stay(hex(8, true)),
            b'x' => self.stay(hex(2, false)),
            b'0'..=b'7' => self.stay(State::Octal { left: 2, value: u32::from(byte - b'0') }),
            b'\\' => Unescaped::More, // escaped twice
            b'n' => self.byte(b'\n'),
            b'r' => self.byte(b'\r'),
            b't' => self.byte(b'\t'),
            other => self.byte(other),
        }
    }

    /// The next byte of `&#…`.
    fn reference(&mut self, base: u32, value: u32, digits: u8, byte: u8) -> Unescaped {
        let radix = if base == 16 { 16 } else { 10 };
        match byte {
            b'x' | b'X' if base == 0 && digits == 0 => {
                self.stay(State::Number { base: 16, value, digits })
            }
            b';' if digits > 0 => self.number(value, true),
            _ => match char::from(byte).to_digit(radix) {
                Some(digit) if digits < 7 => self.stay(State::Number {
                    base: radix,
                    value: value * radix + digit,
                    digits: digits + 1,
                }),
                _ => self.give_up(b'&', byte),
            },
        }
    }

    /// The next byte of `&name`.
    fn named(&mut self, mut name: [u8; 4], len: u8, byte: u8) -> Unescaped {
        match byte {
            b'a'..=b'z' if len < 4 => {
                name[usize::from(len)] = byte;
                self.stay(State::Named { name, len: len + 1 })
            }
            b';' => match &name[..usize::from(len)] {
                b"amp" => self.byte(b'&'),
                b"lt" => self.byte(b'<'),
                b"gt" => self.byte(b'>'),
                b"quot" => self.byte(b'"'),
                b"apos" => self.byte(b'\''),
                b"shy" => self.nothing(),
                _ => self.byte(OTHER),
            },
            _ => self.give_up(b'&', byte),
        }
    }

    fn stay(&mut self, state: State) -> Unescaped {
        self.state = state;
        Unescaped::More
    }

    fn nothing(&mut self) -> Unescaped {
        self.state = State::Text;
        Unescaped::Nothing
    }

    fn byte(&mut self, byte: u8) -> Unescaped {
        (self.state, self.left) = (State::Text, 0);
        Unescaped::Byte(byte)
    }

    /// `mark` began no escape: `byte` is read again.
    fn give_up(&mut self, mark: u8, byte: u8) -> Unescaped {
        self.state = State::Text;
        match self.text(byte) {
            Unescaped::More => Unescaped::ByteThenMore(mark),
            Unescaped::Nothing => Unescaped::Byte(mark),
            Unescaped::Byte(byte) => Unescaped::Two(mark, byte),
            Unescaped::Two(..) | Unescaped::ByteThenMore(_) => Unescaped::Two(mark, OTHER),
        }
    }

    fn number(&mut self, value: u32, code: bool) -> Unescaped {
        self.state = State::Text;
        match u8::try_from(value) {
            Ok(0) => Unescaped::Nothing,
            Ok(byte) if byte < 0x80 => self.byte(byte),
            Ok(byte) if !code => self.utf8(byte),
            _ => self.folded(value),
        }
    }

    fn folded(&mut self, code: u32) -> Unescaped {
        let code = match code {
            0xd800..0xdc00 => {
                self.high = code;
                return Unescaped::Nothing;
            }
            0xdc00..0xe000 if self.high > 0 => {
                0x10000 + ((std::mem::take(&mut self.high) - 0xd800) << 10) + (code - 0xdc00)
            }
            other => other,
        };
        self.high = 0;
        match fold(code, self.tags) {
            Folded::Nothing => Unescaped::Nothing,
            Folded::Ascii(byte) => Unescaped::Byte(byte),
            Folded::Other => Unescaped::Byte(OTHER),
        }
    }
}

/// What a mark may begin.
const fn mark(byte: u8) -> Option<State> {
    match byte {
        b'%' => Some(State::Percent),
        b'\\' => Some(State::Backslash),
        b'&' => Some(State::Ampersand),
        b'=' => Some(State::Equals),
        _ => None,
    }
}

fn hex(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unescape(text: &[u8], tags: bool) -> Vec<u8> {
        let (mut unescape, mut out) = (Unescape::new(tags), Vec::new());
        for byte in text {
            match unescape.feed(*byte) {
                Unescaped::More | Unescaped::Nothing => {}
                Unescaped::Byte(b) | Unescaped::ByteThenMore(b) => out.push(b),
                Unescaped::Two(a, b) => out.extend([a, b]),
            }
        }
        out
    }

    #[test]
    fn escapes_stand_for_their_characters() {
        for (text, plain) in [
            (r"\u0041\x41\101\U00000041\u{41}\/\\u0041", "AAAAA/A"),
            ("%41%u0041&#65;&#x41;&amp;&lt;", "AAAA&<"),
            ("=41=\r\nB=\nC", "ABC"),
            ("100% = 5 & 6 \\", "100% = 5 & 6 "),
            ("%zz&%41=%41&;", "%zz&A=A&;"),
            ("g\u{200b}h\u{ad}p\u{e0041}_ｇ", "ghp_g"),
            ("a%E2%80%8Bb\\u200bc\\ud83c\\udd30", "abcA"),
            ("g\0h\0", "gh"),
        ] {
            assert_eq!(String::from_utf8_lossy(&unescape(text.as_bytes(), false)), plain, "{text}");
        }
        assert_eq!(unescape("\u{e0067}\u{e0068}".as_bytes(), true), b"gh");
    }
}
