//! Follows one form of a secret through a text, byte by byte.

use crate::fold::{Folded, fold};

use super::escape::{hex_value, simple};
use super::form::{Escapes, Form, Kind};

/// Bytes over which a follower goes before it gives up, escapes and gaps included; so no more is
/// ever held for it.
const REACH: u16 = 8192;
/// Most bytes of white space in a row, or of what separates the digits of a dump.
const MAX_GAP: u8 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Backslash,
    /// Hex digits still to come, and the value so far; whether it is a character's number rather
    /// than a byte.
    Hex {
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
    /// Just after `%`.
    Percent,
    /// Just after `&`.
    Ampersand,
    /// `&#…;`, base 0 until its first digit is known.
    Number {
        base: u8,
        value: u32,
        digits: u8,
    },
    Named {
        name: [u8; 4],
        len: u8,
    },
    /// Just after `=`, in quoted-printable.
    Equals,
    /// A character of UTF-8, with so many bytes to come.
    Utf8 {
        left: u8,
        code: u32,
    },
    /// `0` or `\` between the digits of a dump: `x` comes.
    Prefix,
}

/// What became of a follower with a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    More,
    Found,
    Lost,
}

/// A form on its way through a text, byte by byte; so how the text was cut cannot matter.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) form: u16,
    /// Index of the next character.
    at: u16,
    /// Bytes so far.
    len: u16,
    gap: u8,
    /// Which escapes are followed.
    escapes: Escapes,
    /// Whether it began with an escape that is not over.
    first: bool,
    escape: Escape,
    /// Where the form begins.
    pub(crate) start: u64,
    /// The byte that shows that it may begin there.
    known: u64,
    /// Where its third character ends: what comes then is held. Unknown: `u64::MAX`.
    pub(crate) third: u64,
}

impl Follower {
    /// At a form's first byte.
    pub(crate) fn plain(form: u16, start: u64, known: u64, escapes: Escapes) -> Self {
        Self {
            form,
            at: 0,
            len: 0,
            gap: 0,
            escapes,
            first: false,
            escape: Escape::None,
            start,
            known,
            third: u64::MAX,
        }
    }

    /// At an escape, `before` characters of the form preceding it.
    pub(crate) fn escaped(form: u16, escapes: Escapes, before: u16, start: u64, at: u64) -> Self {
        let third = if before >= 3 { at } else { u64::MAX };
        Self {
            form,
            at: before,
            len: before,
            gap: 0,
            escapes,
            first: true,
            escape: Escape::None,
            start,
            known: 0,
            third,
        }
    }

    /// Whether so much of the form was there that even this is a finding.
    pub(crate) fn has_enough(&self, form: &Form) -> bool {
        self.at >= form.enough
    }

    /// Takes the byte at `pos`.
    pub(crate) fn feed(&mut self, form: &Form, byte: u8, pos: u64) -> Step {
        self.len += 1;
        if self.len > REACH {
            return Step::Lost;
        }
        match self.escape {
            Escape::None => self.unescaped(form, byte, pos),
            Escape::Prefix => match byte {
                b'x' | b'X' | b'n' | b'r' | b't' => self.stay(Escape::None),
                _ => Step::Lost,
            },
            Escape::Equals => match (byte, hex_value(byte)) {
                (b'\r', _) => Step::More,
                (b'\n', _) => self.stay(Escape::None),
                (_, Some(value)) => self.stay(Escape::Hex { left: 1, value, code: false }),
                _ => Step::Lost,
            },
            Escape::Utf8 { left, code } if matches!(byte, 0x80..0xc0) => {
                let code = (code << 6) | u32::from(byte & 0x3f);
                if left > 1 {
                    return self.stay(Escape::Utf8 { left: left - 1, code });
                }
                self.folded(form, code, pos)
            }
            Escape::Utf8 { .. } => Step::Lost,
            Escape::Backslash => self.backslash(form, byte, pos),
            Escape::Percent if matches!(byte, b'u' | b'U') => {
                self.stay(Escape::Hex { left: 4, value: 0, code: true })
            }
            Escape::Percent => match hex_value(byte) {
                Some(value) => self.stay(Escape::Hex { left: 1, value, code: false }),
                None => Step::Lost,
            },
            Escape::Hex { left: 4, value: 0, code: true } if byte == b'{' => {
                self.stay(Escape::Braced { value: 0 })
            }
            Escape::Hex { left, value, code } => self.hex(form, (left, value, code), byte, pos),
            Escape::Braced { value } => match (byte, hex_value(byte)) {
                (b'}', _) => self.number(form, value, true, pos),
                (_, Some(digit)) if value < 0x0100_0000 => {
                    self.stay(Escape::Braced { value: (value << 4) | digit })
                }
                _ => Step::Lost,
            },
            Escape::Octal { left, value } => match byte {
                b'0'..=b'7' => {
                    let value = (value << 3) | u32::from(byte - b'0');
                    if left > 1 {
                        return self.stay(Escape::Octal { left: left - 1, value });
                    }
                    self.number(form, value, false, pos)
                }
                _ => Step::Lost,
            },
            Escape::Ampersand => match byte {
                b'#' => self.stay(Escape::Number { base: 0, value: 0, digits: 0 }),
                b'a'..=b'z' => self.stay(Escape::Named { name: [byte, 0, 0, 0], len: 1 }),
                _ => Step::Lost,
            },
            Escape::Number { base, value, digits } => {
                self.reference(form, (base, value, digits), byte, pos)
            }
            Escape::Named { name, len } => self.named(form, (name, len), byte, pos),
        }
    }

    /// The character that `form` has next.
    fn expected(&self, form: &Form) -> u8 {
        form.bytes[usize::from(self.at)]
    }

    /// The byte behind a backslash.
    fn backslash(&mut self, form: &Form, byte: u8, pos: u64) -> Step {
        match byte {
            b'u' => self.stay(Escape::Hex { left: 4, value: 0, code: true }),
            b'U' => self.stay(Escape::Hex { left: 8, value: 0, code: true }),
            b'x' => self.stay(Escape::Hex { left: 2, value: 0, code: false }),
            b'0'..=b'7' => self.stay(Escape::Octal { left: 2, value: u32::from(byte - b'0') }),
            b'\\' if self.expected(form) != b'\\' && !self.first => Step::More, // escaped twice
            other => self.accept(form, simple(other), pos),
        }
    }

    /// A digit of a hexadecimal escape.
    fn hex(
        &mut self,
        form: &Form,
        (left, value, code): (u8, u32, bool),
        byte: u8,
        pos: u64,
    ) -> Step {
        let Some(digit) = hex_value(byte) else { return Step::Lost };
        let value = (value << 4) | digit;
        if left > 1 {
            return self.stay(Escape::Hex { left: left - 1, value, code });
        }
        if !code && value == u32::from(b'%') && self.expected(form) != b'%' {
            return self.stay(Escape::Percent); // escaped twice
        }
        self.number(form, value, code, pos)
    }

    /// The next byte of `&#…;`.
    fn reference(
        &mut self,
        form: &Form,
        (base, value, digits): (u8, u32, u8),
        byte: u8,
        pos: u64,
    ) -> Step {
        let base = match (byte, base) {
            (b'x' | b'X', 0) => return self.stay(Escape::Number { base: 16, value, digits }),
            (b';', _) if digits > 0 => return self.number(form, value, true, pos),
            (_, 16) => 16,
            _ => 10,
        };
        match char::from(byte).to_digit(u32::from(base)) {
            Some(digit) if digits < 7 => {
                let value = value * u32::from(base) + digit;
                self.stay(Escape::Number { base, value, digits: digits + 1 })
            }
            _ => Step::Lost,
        }
    }

    /// The next byte of `&name;`.
    fn named(&mut self, form: &Form, (mut name, len): ([u8; 4], u8), byte: u8, pos: u64) -> Step {
        match byte {
            b'a'..=b'z' if len < 4 => {
                name[usize::from(len)] = byte;
                self.stay(Escape::Named { name, len: len + 1 })
            }
            b';' => match &name[..usize::from(len)] {
                // Escaped twice.
                b"amp" if self.expected(form) != b'&' && !self.first => {
                    self.stay(Escape::Ampersand)
                }
                b"amp" => self.accept(form, b'&', pos),
                b"lt" => self.accept(form, b'<', pos),
                b"gt" => self.accept(form, b'>', pos),
                b"quot" => self.accept(form, b'"', pos),
                b"apos" => self.accept(form, b'\'', pos),
                _ => Step::Lost,
            },
            _ => Step::Lost,
        }
    }

    fn unescaped(&mut self, form: &Form, byte: u8, pos: u64) -> Step {
        let at = usize::from(self.at);
        let expected = form.bytes[at];
        match (form.kind, byte) {
            (Kind::Plain | Kind::Base64, 0) if expected != 0 && at > 0 => Step::More,
            (Kind::Plain | Kind::Base64, b'=') if expected != b'=' => self.stay(Escape::Equals),
            (Kind::Plain | Kind::Base64, 0xc2..0xe0) if expected < 0x80 => {
                self.stay(Escape::Utf8 { left: 1, code: u32::from(byte & 0x1f) })
            }
            (Kind::Plain | Kind::Base64, 0xe0..0xf0) if expected < 0x80 => {
                self.stay(Escape::Utf8 { left: 2, code: u32::from(byte & 0x0f) })
            }
            (Kind::Plain | Kind::Base64, 0xf0..0xf5) if expected < 0x80 => {
                self.stay(Escape::Utf8 { left: 3, code: u32::from(byte & 0x07) })
            }
            (Kind::Plain | Kind::Base64, b'%') if self.escapes.has(byte) => {
                self.stay(Escape::Percent)
            }
            (Kind::Plain | Kind::Base64, b'\\') if self.escapes.has(byte) => {
                self.stay(Escape::Backslash)
            }
            (Kind::Plain | Kind::Base64, b'&') if self.escapes.has(byte) => {
                self.stay(Escape::Ampersand)
            }
            (Kind::Plain, b'+') if form.bytes[at] == b' ' => self.accept(form, b' ', pos),
            (Kind::Hex, b'0' | b'\\') if at % 2 == 0 && form.bytes[at] != byte => {
                self.stay(Escape::Prefix)
            }
            (Kind::Base32 | Kind::Decimal, b'\\') if at > 0 => self.stay(Escape::Prefix),
            _ => self.accept(form, byte, pos),
        }
    }

    fn stay(&mut self, escape: Escape) -> Step {
        self.escape = escape;
        Step::More
    }

    fn number(&mut self, form: &Form, value: u32, code: bool, pos: u64) -> Step {
        match u8::try_from(value) {
            Ok(byte) if !code || byte < 0x80 => self.accept(form, byte, pos),
            _ => self.folded(form, value, pos),
        }
    }

    /// A character that is not ASCII, by its code point.
    fn folded(&mut self, form: &Form, code: u32, pos: u64) -> Step {
        match fold(code, false) {
            Folded::Nothing if !self.first => self.stay(Escape::None),
            Folded::Ascii(byte) => self.accept(form, byte, pos),
            Folded::Nothing | Folded::Other => Step::Lost,
        }
    }

    fn accept(&mut self, form: &Form, byte: u8, pos: u64) -> Step {
        let at = usize::from(self.at);
        self.escape = Escape::None;
        if form.same(at, byte) {
            self.first = false;
            self.gap = 0;
            self.at += 1;
            if self.at == 3 {
                self.third = (pos + 1).max(self.known);
            }
            if usize::from(self.at) == form.bytes.len() { Step::Found } else { Step::More }
        } else if !self.first && form.skips(at, byte) && self.gap < MAX_GAP {
            self.gap += 1;
            Step::More
        } else {
            Step::Lost
        }
    }
}
