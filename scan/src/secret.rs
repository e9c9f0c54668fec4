//! The bundle's own secrets: the forms that each can take, and following one through the ways a
//! text can be escaped.

use bottle_policy::{Secret, TokenName};
use zeroize::Zeroizing;

use crate::filter::GRAM;

/// Shorter secrets are not looked for: they would be found everywhere.
pub(crate) const MIN: usize = 8;
/// Bytes of a secret that are compared; of a longer one, the first.
const MAX: usize = 2048;
/// Bytes over which a follower goes before it gives up, escapes and gaps included; so no more is
/// ever held for it.
pub(crate) const REACH: u16 = 8192;
/// Bytes of white space in a row, or of what separates the digits of a dump.
const GAP: u8 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
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
    kind: Kind,
    bytes: Zeroizing<Vec<u8>>,
    /// So many characters of it, and no more of them, are a find too. What is held back tells a
    /// guest that can see it how far it has guessed right: it must be stopped, and seen, long
    /// before it has the whole.
    enough: u16,
}

/// How many of a secret's bytes must not be there: a third, but more than what many secrets begin
/// with (`sk-ant-api03-`).
fn enough(bytes: &[u8]) -> usize {
    let public = bytes[..bytes.len().min(48) / 2]
        .iter()
        .rposition(|b| b"-_.".contains(b))
        .map_or(0, |at| at + 1);
    (public + 8).max(12).max(bytes.len() / 3).min(bytes.len())
}

/// All forms of all secrets.
pub(crate) struct Forms {
    pub(crate) names: Vec<TokenName>,
    pub(crate) all: Vec<Form>,
    /// Indices of the forms that may begin with an escape.
    escapable: Vec<u16>,
    /// Whether a byte is among the first of such a form.
    lead: [bool; 256],
    /// Whether one of those has a name in HTML.
    named: bool,
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The digits of `bytes` in an alphabet of 2^`bits`, when `before` bytes that are not known precede
/// it in its group: those digits that depend on `bytes` alone.
fn digits(bytes: &[u8], before: usize, alphabet: &[u8], bits: usize) -> Zeroizing<Vec<u8>> {
    let total = (before + bytes.len()) * 8;
    let first = (before * 8).div_ceil(bits);
    let digit = |i: usize| {
        let value = (i * bits..(i + 1) * bits).fold(0, |value, bit| {
            let byte = bytes[bit / 8 - before];
            (value << 1) | usize::from((byte >> (7 - bit % 8)) & 1)
        });
        alphabet[value]
    };
    let mut out = Zeroizing::new(Vec::with_capacity(total / bits));
    out.extend((first..total / bits).map(digit));
    out
}

impl Form {
    /// The first bytes by which this form is found.
    pub(crate) fn grams(&self) -> Vec<[u8; GRAM]> {
        let b = &self.bytes;
        let Some(first) = b.first_chunk::<GRAM>() else { return Vec::new() };
        let mut grams = vec![*first];
        match self.kind {
            Kind::Base64 => {
                for i in 0..GRAM {
                    for j in 0..grams.len() {
                        let mut gram = grams[j];
                        gram[i] = match gram[i] {
                            b'+' => b'-',
                            b'/' => b'_',
                            _ => continue,
                        };
                        grams.push(gram);
                    }
                }
            }
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

    fn same(&self, at: usize, byte: u8) -> bool {
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
    fn skips(&self, at: usize, byte: u8) -> bool {
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

impl Forms {
    pub(crate) fn new(secrets: &[(TokenName, Secret)]) -> Self {
        let mut forms = Self {
            names: Vec::new(),
            all: Vec::new(),
            escapable: Vec::new(),
            lead: [false; 256],
            named: false,
        };
        for (name, secret) in secrets {
            let whole = secret.expose().as_bytes();
            if whole.len() < MIN {
                continue;
            }
            let Ok(index) = u16::try_from(forms.names.len()) else { break };
            forms.names.push(name.clone());
            // A password is worth as much without the name before it (`user:password`, as the
            // scheme `basic` has it).
            let password = whole
                .iter()
                .position(|b| *b == b':')
                .map(|at| &whole[at + 1..])
                .filter(|p| p.len() >= MIN);
            for bytes in std::iter::once(whole).chain(password) {
                forms.add(index, &bytes[..bytes.len().min(MAX)]);
            }
        }
        forms.named = b"&<>\"'".iter().any(|b| forms.lead[usize::from(*b)]);
        forms
    }

    fn add(&mut self, secret: u16, bytes: &[u8]) {
        let copy = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        let wide = Zeroizing::new(bytes.iter().flat_map(|b| [*b, 0]).collect::<Vec<u8>>());
        let wide = &wide[..wide.len() - 1]; // as well when big-endian: the zeros are between
        let mut reversed = copy(bytes);
        reversed.reverse();
        let mut hex = Zeroizing::new(Vec::with_capacity(bytes.len() * 2));
        hex.extend(
            bytes
                .iter()
                .flat_map(|b| [b >> 4, b & 15])
                .map(|digit| b"0123456789abcdef"[usize::from(digit)]),
        );
        let mut decimal = Zeroizing::new(Vec::with_capacity(bytes.len() * 4));
        for (i, b) in bytes.iter().enumerate() {
            let digits = [b / 100, b / 10 % 10, b % 10].map(|digit| b'0' + digit);
            let digits = &digits[if *b >= 100 { 0 } else { usize::from(*b < 10) + 1 }..];
            decimal.extend((i > 0).then_some(b','));
            decimal.extend(digits);
        }
        let mut forms = vec![
            (Kind::Plain, copy(bytes)),
            (Kind::Plain, reversed),
            (Kind::Plain, copy(wide)),
            (Kind::Hex, hex),
            (Kind::Decimal, decimal),
        ];
        for before in 0..3 {
            for bytes in [bytes, wide] {
                let digits = digits(bytes, before, BASE64, 6);
                // Where a line ends within the first digits, the others are found.
                forms.push((Kind::Base64, copy(&digits[GRAM..])));
                forms.push((Kind::Base64, digits));
            }
        }
        for before in 0..5 {
            forms.push((Kind::Base32, digits(bytes, before, BASE32, 5)));
        }
        let (plain, of) = (enough(bytes), bytes.len());
        for (kind, bytes) in forms {
            let Ok(index) = u16::try_from(self.all.len()) else { return };
            let enough = u16::try_from((bytes.len() * plain).div_ceil(of)).unwrap_or(u16::MAX);
            let form = Form { secret, kind, bytes, enough };
            if matches!(kind, Kind::Plain | Kind::Base64) && form.bytes.get(1) != Some(&0) {
                self.escapable.push(index);
                for at in 0..form.bytes.len().min(GRAM) {
                    for byte in 0..=u8::MAX {
                        self.lead[usize::from(byte)] |= form.same(at, byte);
                    }
                }
            }
            self.all.push(form);
        }
    }

    /// Those that a text may hold beginning with an escape at `at`, the byte there being `%`, `\`
    /// or `&`: to be followed from there. `byte` reads the text.
    pub(crate) fn escaped(
        &self,
        at: u64,
        byte: impl Fn(u64) -> Option<u8>,
        mut each: impl FnMut(Follower),
    ) {
        let Some(mark) = byte(at) else { return };
        if mark == b'&' && !self.named && byte(at + 1).is_some_and(|b| b != b'#') {
            return;
        }
        let known = match decode(mark, |i| byte(at + i)) {
            Decoded::Nothing => return,
            Decoded::Char(c) if !self.lead[usize::from(c)] => return,
            Decoded::Char(c) => Some(c),
            Decoded::Unknown => None,
        };
        // In a text that was escaped twice the backslash itself is.
        let mut before = at;
        while mark == b'\\' && at - before < 4 && before > 0 && byte(before - 1) == Some(b'\\') {
            before -= 1;
        }
        for index in &self.escapable {
            let form = &self.all[usize::from(*index)];
            for k in 0..GRAM {
                let Some(start) = (if k == 0 { Some(at) } else { before.checked_sub(k as u64) })
                else {
                    break;
                };
                let precede =
                    (0..k).all(|i| byte(start + i as u64).is_some_and(|b| form.same(i, b)));
                if precede && known.is_none_or(|c| form.same(k, c)) {
                    for escapes in form.readings().iter().filter(|escapes| escapes.has(mark)) {
                        each(Follower::escaped(*index, *escapes, k as u16, start, at));
                    }
                }
            }
        }
    }
}

enum Decoded {
    /// Not the beginning of an escape that a secret could begin with.
    Nothing,
    /// This character.
    Char(u8),
    /// More than these bytes are needed to say.
    Unknown,
}

fn hex_value(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

/// What the escape that begins with `mark` stands for. A [`Follower`] says the same, more slowly.
fn decode(mark: u8, byte: impl Fn(u64) -> Option<u8>) -> Decoded {
    let Some(next) = byte(1) else { return Decoded::Unknown };
    let number = |from: u64, len: u64| {
        let mut value = 0;
        for i in from..from + len {
            match byte(i).map(hex_value) {
                None => return Decoded::Unknown,
                Some(None) => return Decoded::Nothing,
                Some(Some(digit)) => value = (value << 4) | digit,
            }
        }
        u8::try_from(value).map_or(Decoded::Nothing, Decoded::Char)
    };
    match (mark, next) {
        (b'%', b'u' | b'U') | (b'\\', b'U' | b'0'..=b'7') | (b'&', b'#') => Decoded::Unknown,
        (b'%', _) => match number(1, 2) {
            Decoded::Char(b'%') => Decoded::Unknown, // escaped twice
            decoded => decoded,
        },
        (b'\\', b'u') if byte(2) == Some(b'{') => Decoded::Unknown,
        (b'\\', b'u') => match number(2, 4) {
            Decoded::Char(c) if c >= 0x80 => Decoded::Nothing,
            decoded => decoded,
        },
        (b'\\', b'x') => number(2, 2),
        (b'\\', other) => Decoded::Char(simple(other)),
        (_, b'a' | b'l' | b'g' | b'q') => Decoded::Unknown,
        _ => Decoded::Nothing,
    }
}

/// What a backslash and this letter stand for.
fn simple(letter: u8) -> u8 {
    match letter {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'f' => 12,
        other => other,
    }
}

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
    /// Where its third character ends: what comes then is held. Unknown: `u64::MAX`.
    pub(crate) third: u64,
}

impl Follower {
    /// At a form's first byte.
    pub(crate) fn plain(form: u16, start: u64, escapes: Escapes) -> Self {
        Self {
            form,
            at: 0,
            len: 0,
            gap: 0,
            escapes,
            first: false,
            escape: Escape::None,
            start,
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
            third,
        }
    }

    /// Whether so much of the form was there that even this is a find.
    pub(crate) fn has_enough(&self, form: &Form) -> bool {
        self.at >= form.enough
    }

    /// Takes the byte at `pos`.
    pub(crate) fn feed(&mut self, form: &Form, byte: u8, pos: u64) -> Step {
        self.len += 1;
        if self.len > REACH {
            return Step::Lost;
        }
        let expected = form.bytes[usize::from(self.at)];
        match self.escape {
            Escape::None => self.unescaped(form, byte, pos),
            Escape::Prefix => match byte {
                b'x' | b'X' | b'n' | b'r' | b't' => self.stay(Escape::None),
                _ => Step::Lost,
            },
            Escape::Backslash => match byte {
                b'u' => self.stay(Escape::Hex { left: 4, value: 0, code: true }),
                b'U' => self.stay(Escape::Hex { left: 8, value: 0, code: true }),
                b'x' => self.stay(Escape::Hex { left: 2, value: 0, code: false }),
                b'0'..=b'7' => self.stay(Escape::Octal { left: 2, value: u32::from(byte - b'0') }),
                b'\\' if expected != b'\\' && !self.first => Step::More, // escaped twice
                other => self.accept(form, simple(other), pos),
            },
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
            Escape::Hex { left, value, code } => {
                let Some(digit) = hex_value(byte) else { return Step::Lost };
                let value = (value << 4) | digit;
                if left > 1 {
                    return self.stay(Escape::Hex { left: left - 1, value, code });
                }
                if !code && value == u32::from(b'%') && expected != b'%' {
                    return self.stay(Escape::Percent); // escaped twice
                }
                self.number(form, value, code, pos)
            }
            Escape::Braced { value } => match (byte, hex_value(byte)) {
                (b'}', _) => self.number(form, value, true, pos),
                (_, Some(digit)) if value < 0x0100_0000 => {
                    self.stay(Escape::Braced { value: (value << 4) | digit })
                }
                _ => Step::Lost,
            },
            Escape::Octal { left, value } => match byte {
                b'0'..=b'7' if left > 1 => self.stay(Escape::Octal {
                    left: left - 1,
                    value: (value << 3) | u32::from(byte - b'0'),
                }),
                b'0'..=b'7' => self.number(form, (value << 3) | u32::from(byte - b'0'), false, pos),
                _ => Step::Lost,
            },
            Escape::Ampersand => match byte {
                b'#' => self.stay(Escape::Number { base: 0, value: 0, digits: 0 }),
                b'a'..=b'z' => self.stay(Escape::Named { name: [byte, 0, 0, 0], len: 1 }),
                _ => Step::Lost,
            },
            Escape::Number { base, value, digits } => match byte {
                b'x' | b'X' if base == 0 => self.stay(Escape::Number { base: 16, value, digits }),
                b';' if digits > 0 => self.number(form, value, true, pos),
                _ => match char::from(byte).to_digit(if base == 16 { 16 } else { 10 }) {
                    Some(digit) if digits < 7 => {
                        let base = if base == 16 { 16 } else { 10 };
                        self.stay(Escape::Number {
                            base,
                            value: value * u32::from(base) + digit,
                            digits: digits + 1,
                        })
                    }
                    _ => Step::Lost,
                },
            },
            Escape::Named { mut name, len } => match byte {
                b'a'..=b'z' if len < 4 => {
                    name[usize::from(len)] = byte;
                    self.stay(Escape::Named { name, len: len + 1 })
                }
                b';' => match &name[..usize::from(len)] {
                    b"amp" if expected != b'&' && !self.first => self.stay(Escape::Ampersand), // escaped twice
                    b"amp" => self.accept(form, b'&', pos),
                    b"lt" => self.accept(form, b'<', pos),
                    b"gt" => self.accept(form, b'>', pos),
                    b"quot" => self.accept(form, b'"', pos),
                    b"apos" => self.accept(form, b'\'', pos),
                    _ => Step::Lost,
                },
                _ => Step::Lost,
            },
        }
    }

    fn unescaped(&mut self, form: &Form, byte: u8, pos: u64) -> Step {
        let at = usize::from(self.at);
        match (form.kind, byte) {
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
            _ => Step::Lost,
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
                self.third = pos + 1;
            }
            if usize::from(self.at) == form.bytes.len() { Step::Found } else { Step::More }
        } else if !self.first && form.skips(at, byte) && self.gap < GAP {
            self.gap += 1;
            Step::More
        } else {
            Step::Lost
        }
    }
}
