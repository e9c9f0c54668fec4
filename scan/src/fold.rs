//! What a character looks like: compatibility forms and look-alikes become ASCII, characters that
//! nobody sees become nothing.

use std::sync::LazyLock;

/// What a character stands for in a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folded {
    /// Nothing: it is invisible, or only decorates the character before it.
    Nothing,
    /// This ASCII character.
    Ascii(u8),
    /// A character that no token contains.
    Other,
}

/// Code points that are not visible by themselves, first and last of each range.
const INVISIBLE: [(u32, u32); 29] = [
    (0x00, 0x00),
    (0xa0, 0xa0),
    (0xad, 0xad),
    (0x300, 0x36f),
    (0x483, 0x489),
    (0x61c, 0x61c),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x1ab0, 0x1aff),
    (0x1dc0, 0x1dff),
    (0x2000, 0x200f),
    (0x202a, 0x202f),
    (0x205f, 0x206f),
    (0x20d0, 0x20ff),
    (0x2800, 0x2800),
    (0x3000, 0x3000),
    (0x302a, 0x302f),
    (0x3099, 0x309a),
    (0x3164, 0x3164),
    (0xd800, 0xdbff),
    (0xfe00, 0xfe0f),
    (0xfe20, 0xfe2f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff9, 0xfffb),
    (0x1d165, 0x1d182),
    (0x1bca0, 0x1bca3),
    (0xe0000, 0xe0fff),
];

/// Characters that look like the ASCII character behind them: letters of other scripts, letterlike
/// symbols, dashes and other marks.
const LOOK_ALIKES: &[(&str, u8)] = &[
    ("АΑ", b'A'),
    ("ВΒℬ", b'B'),
    ("СϹℂℭ", b'C'),
    ("ⅮÐ", b'D'),
    ("ЕΕℰ", b'E'),
    ("ℱ", b'F'),
    ("Ԍ", b'G'),
    ("НΗℋℌℍ", b'H'),
    ("ІΙӀℐℑ", b'I'),
    ("Ј", b'J'),
    ("КΚK", b'K'),
    ("ℒ", b'L'),
    ("МΜℳ", b'M'),
    ("Νℕ", b'N'),
    ("ОΟ", b'O'),
    ("РΡℙ", b'P'),
    ("ℚ", b'Q'),
    ("ℛℜℝ", b'R'),
    ("Ѕ", b'S'),
    ("ТΤ", b'T'),
    ("ХΧ", b'X'),
    ("ҮΥ", b'Y'),
    ("Ζℤℨ", b'Z'),
    ("аɑα", b'a'),
    ("сϲ", b'c'),
    ("ԁⅾ", b'd'),
    ("еℯⅇ", b'e'),
    ("ɡℊ", b'g'),
    ("һℎ", b'h'),
    ("іıιℹⅰ", b'i'),
    ("јϳ", b'j'),
    ("ӏℓⅼ", b'l'),
    ("ⅿ", b'm'),
    ("ոո", b'n'),
    ("оοօℴ", b'o'),
    ("рρ", b'p'),
    ("ԛ", b'q'),
    ("ѕſ", b's'),
    ("սυ", b'u'),
    ("ѵν", b'v'),
    ("ԝ", b'w'),
    ("х", b'x'),
    ("уγ", b'y'),
    ("‐‑‒–—−﹘﹣", b'-'),
    ("‿﹍﹎﹏︳︴", b'_'),
    ("․", b'.'),
    ("⁄∕", b'/'),
    ("∶﹕꞉", b':'),
    ("⁰₀⓪", b'0'),
    ("¹₁", b'1'),
    ("²₂", b'2'),
    ("³₃", b'3'),
    ("⁴₄", b'4'),
    ("⁵₅", b'5'),
    ("⁶₆", b'6'),
    ("⁷₇", b'7'),
    ("⁸₈", b'8'),
    ("⁹₉", b'9'),
];

/// [`LOOK_ALIKES`] by code point, in order.
static BY_CODE: LazyLock<Vec<(u32, u8)>> = LazyLock::new(|| {
    let each = |(chars, ascii): &(&'static str, u8)| {
        let ascii = *ascii;
        chars.chars().map(move |c| (u32::from(c), ascii))
    };
    let mut all: Vec<(u32, u8)> = LOOK_ALIKES.iter().flat_map(each).collect();
    all.sort_unstable();
    all
});

/// Whether a character of UTF-8 that begins with `lead` can be anything but [`Folded::Other`].
pub(crate) const fn is_lead(lead: u8) -> bool {
    matches!(lead, 0xc2..=0xc5 | 0xc9 | 0xcc..=0xd8 | 0xe1..=0xe3 | 0xea | 0xef | 0xf0 | 0xf3)
}

/// Folds a character. With `tags` a tag character (U+E0020 to U+E007E) is the ASCII character that
/// it tags; else it is invisible.
pub(crate) fn fold(code: u32, tags: bool) -> Folded {
    let letter = |base: u8, index: u32| {
        u8::try_from(index).map_or(Folded::Other, |index| Folded::Ascii(base + index))
    };
    match code {
        1..0x80 => return letter(0, code),
        0xe0020..=0xe007e if tags => return letter(0, code - 0xe0000),
        0xff01..=0xff5e => return letter(b'!', code - 0xff01),
        0x1d400..=0x1d6a3 => {
            let index = (code - 0x1d400) % 52;
            return if index < 26 { letter(b'A', index) } else { letter(b'a', index - 26) };
        }
        0x1d7ce..=0x1d7ff => return letter(b'0', (code - 0x1d7ce) % 10),
        0x2460..=0x2468 => return letter(b'1', code - 0x2460),
        0x249c..=0x24b5 => return letter(b'a', code - 0x249c),
        0x24b6..=0x24cf => return letter(b'A', code - 0x24b6),
        0x24d0..=0x24e9 => return letter(b'a', code - 0x24d0),
        0x1f130..=0x1f149 => return letter(b'A', code - 0x1f130),
        0x1f150..=0x1f169 => return letter(b'A', code - 0x1f150),
        0x1f170..=0x1f189 => return letter(b'A', code - 0x1f170),
        _ => {}
    }
    if INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&code)) {
        return Folded::Nothing;
    }
    let found = BY_CODE.binary_search_by_key(&code, |(look_alike, _)| *look_alike);
    found.map_or(Folded::Other, |at| Folded::Ascii(BY_CODE[at].1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_ascii_is_ascii() {
        for (text, ascii) in [("ｇｈｐ＿", "ghp_"), ("𝐠𝗵𝚙", "ghp"), ("ѕк", "s"), ("①Ⓐⓐ🄰", "1AaA")]
        {
            let folded: String = text
                .chars()
                .filter_map(|c| match fold(u32::from(c), false) {
                    Folded::Ascii(b) => Some(char::from(b)),
                    Folded::Nothing | Folded::Other => None,
                })
                .collect();
            assert_eq!(folded, ascii);
        }
        for invisible in ['\0', '\u{ad}', '\u{200b}', '\u{301}', '\u{feff}', '\u{e0041}', '\u{a0}']
        {
            assert_eq!(fold(u32::from(invisible), false), Folded::Nothing, "{invisible:?}");
        }
        assert_eq!(fold(0xe0041, true), Folded::Ascii(b'A'));
        assert_eq!(fold(u32::from('日'), false), Folded::Other);
    }

    #[test]
    fn every_character_that_folds_has_a_known_first_byte() {
        for c in (0x80..0x3200)
            .chain(0xa700..0xa800)
            .chain(0xfe00..0x20000)
            .chain(0xe0000..0xe1000)
            .filter_map(char::from_u32)
        {
            if fold(u32::from(c), true) != Folded::Other
                || fold(u32::from(c), false) != Folded::Other
            {
                let mut buffer = [0; 4];
                let lead = c.encode_utf8(&mut buffer).as_bytes()[0];
                assert!(is_lead(lead), "{c:?} begins with {lead:x}");
            }
        }
    }
}
