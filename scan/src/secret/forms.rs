//! All forms of all secrets that the bundle holds.

use bottle_policy::{Secret, TokenName};
use zeroize::Zeroizing;

use crate::encode::{BASE64, digits};
use crate::shared::GRAM;
use crate::strength::MIN_BYTES;

use super::escape::{Decoded, decode};
use super::follower::Follower;
use super::form::{BASE32, Form, Kind, enough};

/// Bytes of a secret that are compared; of a longer one, the first.
const MAX_BYTES: usize = 2048;

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

/// Bytes of a secret that are compared where two encodings are upon one another.
const MAX_LAYERED_BYTES: usize = 128;

/// The forms of two encodings upon one another: Base64 of Base64 and of hex, hex of Base64.
fn two_layers(bytes: &[u8], forms: &mut Vec<(Kind, Zeroizing<Vec<u8>>)>) {
    let hex = |bytes: &[u8], alphabet: &[u8; 16]| -> Zeroizing<Vec<u8>> {
        let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
        Zeroizing::new(digits.map(|digit| alphabet[usize::from(digit)]).collect())
    };
    let mut inner = vec![hex(bytes, b"0123456789abcdef"), hex(bytes, b"0123456789ABCDEF")];
    for before in 0..3 {
        let base64 = digits(bytes, before, BASE64, 6);
        forms.push((Kind::Hex, hex(&base64, b"0123456789abcdef")));
        let url: Zeroizing<Vec<u8>> = Zeroizing::new(
            base64
                .iter()
                .map(|b| match b {
                    b'+' => b'-',
                    b'/' => b'_',
                    other => *other,
                })
                .collect(),
        );
        if url != base64 {
            inner.push(url);
        }
        inner.push(base64);
    }
    for inner in inner {
        for before in 0..3 {
            forms.push((Kind::Base64, digits(&inner, before, BASE64, 6)));
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
            if whole.len() < MIN_BYTES {
                continue;
            }
            let Ok(index) = u16::try_from(forms.names.len()) else { break };
            forms.names.push(name.clone());
            // A password is worth as much without the name before it (`user:password`, as the
            // scheme `basic` has it).
            let password = whole.iter().position(|b| *b == b':').map(|at| &whole[at + 1..]);
            let password = password.filter(|p| p.len() >= MIN_BYTES);
            for bytes in std::iter::once(whole).chain(password) {
                forms.add(index, &bytes[..bytes.len().min(MAX_BYTES)]);
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
        two_layers(&bytes[..bytes.len().min(MAX_LAYERED_BYTES)], &mut forms);
        let (plain, of) = (enough(bytes), bytes.len());
        for (kind, bytes) in forms {
            let Ok(index) = u16::try_from(self.all.len()) else { return };
            // Of a long secret a form of two layers has only the beginning.
            let enough = (bytes.len() * plain).div_ceil(of).min(bytes.len());
            let enough = u16::try_from(enough).unwrap_or(u16::MAX);
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
