//! Text that somebody else wrote, made safe to show: the one table of characters that do not print
//! as themselves, and what can be done about them.
//!
//! A guest, an upstream or a file may send escape sequences, characters that reverse the order of
//! others (bidirectional controls), and characters that show as nothing. There are four policies:
//! [`escape`] makes them visible, [`replace`] puts another character in their place, [`remove`]
//! drops them, and [`find_unprintable`] is for callers that refuse such text.
//!
//! This is a crate of its own because the guest uses it: the guest's image need not be built again
//! for a change to anything else.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::borrow::Cow;
use std::ops::RangeInclusive;

/// Combining marks that may follow one letter. More than this is drawn over the lines above.
const MAX_MARKS: usize = 2;

/// The table, in ascending order. A test compares it with Unicode's own data: it holds the general
/// categories Cc (control), Cf (format), Co (private use), Zl and Zp (line and paragraph
/// separator), every default-ignorable code point and every noncharacter. Of the other unassigned
/// code points it holds only whole planes, because later versions of Unicode give them to letters
/// and emoji.
const UNPRINTABLE: &[RangeInclusive<char>] = &[
    '\0'..='\u{1f}',           // C0 controls
    '\u{7f}'..='\u{9f}',       // delete, C1 controls
    '\u{ad}'..='\u{ad}',       // soft hyphen
    '\u{34f}'..='\u{34f}',     // combining grapheme joiner
    '\u{600}'..='\u{605}',     // Arabic number signs
    '\u{61c}'..='\u{61c}',     // Arabic letter mark (bidirectional)
    '\u{6dd}'..='\u{6dd}',     // Arabic end of ayah
    '\u{70f}'..='\u{70f}',     // Syriac abbreviation mark
    '\u{890}'..='\u{891}',     // Arabic pound and piastre marks
    '\u{8e2}'..='\u{8e2}',     // Arabic disputed end of ayah
    '\u{115f}'..='\u{1160}',   // Hangul fillers
    '\u{17b4}'..='\u{17b5}',   // Khmer inherent vowels
    '\u{180b}'..='\u{180f}',   // Mongolian variation selectors
    '\u{200b}'..='\u{200f}',   // zero-width characters, left-to-right and right-to-left marks
    '\u{2028}'..='\u{202e}',   // line and paragraph separator, bidirectional embeddings, overrides
    '\u{2060}'..='\u{206f}',   // word joiner, invisible operators, bidirectional isolates
    '\u{2800}'..='\u{2800}',   // blank Braille pattern
    '\u{3164}'..='\u{3164}',   // Hangul filler
    '\u{e000}'..='\u{f8ff}',   // private use
    '\u{fdd0}'..='\u{fdef}',   // noncharacters
    '\u{fe00}'..='\u{fe0f}',   // variation selectors
    '\u{feff}'..='\u{feff}',   // byte order mark
    '\u{ffa0}'..='\u{ffa0}',   // half-width Hangul filler
    '\u{fff0}'..='\u{fffc}',   // annotation marks, object replacement character
    '\u{fffe}'..='\u{ffff}',   // noncharacters
    '\u{110bd}'..='\u{110bd}', // Kaithi number signs
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',  // Egyptian hieroglyph format controls
    '\u{1bca0}'..='\u{1bca3}',  // shorthand format controls
    '\u{1d173}'..='\u{1d17a}',  // musical format controls
    '\u{1fffe}'..='\u{1ffff}',  // noncharacters
    '\u{2fffe}'..='\u{2ffff}',  // noncharacters
    '\u{3fffe}'..='\u{10ffff}', // unassigned planes, tags, more variation selectors, private use
];

/// Whether `c` is invisible, changes the order of other characters, or makes a terminal act.
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    !matches!(c, ' '..='~') && UNPRINTABLE.iter().any(|range| range.contains(&c))
}

/// Whether `c` is an unprintable character that ordinary names need: the joiners of Persian, of
/// Indic scripts and of emoji, and the variation selectors of emoji.
#[must_use]
pub fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe0e}' | '\u{fe0f}')
}

/// The first unprintable character of `text`, for callers that refuse such text.
#[must_use]
pub fn find_unprintable(text: &str) -> Option<char> {
    text.chars().find(|c| is_unprintable(*c))
}

/// `text` with every unprintable character written as `\n`, `\r`, `\t` or `\u{…}`, and likewise
/// combining marks that pile up on one letter.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_capped(text, usize::MAX)
}

/// As [`escape`], at most `max_chars` characters of the result, then `…` when there are more.
#[must_use]
pub fn escape_capped(text: &str, max_chars: usize) -> Cow<'_, str> {
    if text.len() <= max_chars && text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Cow::Borrowed(text); // nearly all text is like this
    }
    let mut out = String::with_capacity(text.len().min(max_chars));
    let (mut left, mut marks) = (max_chars, 0);
    for c in text.chars() {
        marks = if is_mark(c) { marks + 1 } else { 0 };
        let escaped = is_unprintable(c) || marks > MAX_MARKS;
        let width = if escaped { c.escape_default().count() } else { 1 };
        let Some(rest) = left.checked_sub(width) else {
            out.push('…');
            break;
        };
        left = rest;
        if escaped { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// At most `max_chars` characters of `text`, each unprintable one replaced by `with`.
#[must_use]
pub fn replace(text: &str, with: char, max_chars: usize) -> String {
    text.chars().take(max_chars).map(|c| if is_unprintable(c) { with } else { c }).collect()
}

/// At most `max_chars` of the printable characters of `text`.
#[must_use]
pub fn remove(text: &str, max_chars: usize) -> String {
    text.chars().filter(|c| !is_unprintable(*c)).take(max_chars).collect()
}

/// Combining marks that stack on the letter before them.
fn is_mark(c: char) -> bool {
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_syntax::hir::{Class, HirKind};

    /// The code points of a character class such as `[\p{Cc}\p{Cf}]`.
    fn class(pattern: &str) -> impl Fn(char) -> bool {
        let hir = regex_syntax::Parser::new().parse(pattern).unwrap();
        let HirKind::Class(Class::Unicode(class)) = hir.into_kind() else {
            panic!("{pattern} is not a class")
        };
        move |c| {
            let next = class.ranges().partition_point(|r| r.end() < c);
            class.ranges().get(next).is_some_and(|r| r.start() <= c)
        }
    }

    #[test]
    fn the_table_agrees_with_unicode() {
        let wanted = class(
            r"[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}]",
        );
        let unassigned = class(r"\p{Cn}");
        for c in '\0'..=char::MAX {
            let listed = is_unprintable(c);
            assert!(!wanted(c) || listed, "{} is missing", c.escape_unicode());
            let known = wanted(c) || unassigned(c) || matches!(c, '\u{2800}' | '\u{fffc}');
            assert!(!listed || known, "{} prints", c.escape_unicode());
        }
        for pair in UNPRINTABLE.windows(2) {
            assert!(pair[0].end() < pair[1].start(), "{pair:?}");
        }
    }

    #[test]
    fn each_policy_leaves_nothing_that_acts() {
        let text = "a\u{1b}[2J\u{202e}\u{3164}é";
        assert_eq!(escape(text), "a\\u{1b}[2J\\u{202e}\\u{3164}é");
        assert_eq!(escape("x\r\n\ty"), "x\\r\\n\\ty");
        assert_eq!(escape_capped("abcdef", 3), "abc…");
        assert_eq!(escape_capped("ab\u{1b}", 4), "ab…", "an escape is whole or absent");
        assert_eq!(replace(text, '?', 5), "a?[2J");
        assert_eq!(remove(text, 100), "a[2Jé");
        assert_eq!(find_unprintable(text), Some('\u{1b}'));
        assert_eq!(find_unprintable("plain ünïcode 日本 🙂"), None);
    }
}
