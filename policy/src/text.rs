//! Text from a guest, an upstream or a file, made safe to show.

use std::fmt;

pub use bottle_text::{
    escape, escape_capped, find_unprintable, is_joiner, is_unprintable, remove, replace,
};
use serde::{Deserialize, Serialize};

/// Maximum length of a reason or question, in characters.
pub const MAX_TEXT_CHARS: usize = 500;

/// Text that an agent wrote: one line, in which [`escape`] was applied. No value of this type holds
/// a character that a terminal or a browser acts on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct UntrustedText(String);

impl UntrustedText {
    /// At most `max_chars` characters of `text`, then `…` when there are more. Line breaks and tabs
    /// become spaces.
    #[must_use]
    pub fn new(text: &str, max_chars: usize) -> Self {
        let line = text.trim().replace(['\n', '\r', '\t'], " ");
        Self(escape_capped(&line, max_chars).into_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for UntrustedText {
    fn from(text: String) -> Self {
        // One more for the `…`, so that reading a text that was written does not change it.
        Self::new(&text, MAX_TEXT_CHARS + 1)
    }
}

impl From<UntrustedText> for String {
    fn from(text: UntrustedText) -> Self {
        text.0
    }
}

impl fmt::Display for UntrustedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_is_one_line_and_stable_when_read_again() {
        for (text, want) in [
            ("plain ünïcode 日本", "plain ünïcode 日本"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\tc", "a b c"),
            ("x\u{202e}gpj.exe", "x\\u{202e}gpj.exe"),
            ("a\u{200b}b\u{ad}c\u{e0041}", "a\\u{200b}b\\u{ad}c\\u{e0041}"),
            ("z\u{301}\u{301}\u{301}", "z\u{301}\u{301}\\u{301}"),
        ] {
            assert_eq!(UntrustedText::new(text, MAX_TEXT_CHARS).as_str(), want);
        }
        let long = UntrustedText::new(&"x".repeat(10_000), MAX_TEXT_CHARS);
        assert_eq!(long.as_str().chars().count(), MAX_TEXT_CHARS + 1);
        let json = serde_json::to_string(&long).unwrap();
        assert_eq!(serde_json::from_str::<UntrustedText>(&json).unwrap(), long);
        let raw: UntrustedText = serde_json::from_str("\"a\\u001b[31m\"").unwrap();
        assert_eq!(raw.as_str(), "a\\u{1b}[31m", "a file that somebody edited is escaped too");
    }
}
