//! The rules as data: `rules.toml`, and what is made of it.

use std::sync::OnceLock;

use bottle_policy::Action;
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::shared::Direction;
use crate::shared::GRAM;

/// Largest that a rule's `max` may be, bytes: what is remembered of a stream for a rule's sake.
pub(crate) const MAX: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    rule: Vec<RuleRow>,
}

/// A rule as it is written; `rules.toml` says what each key means.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleRow {
    id: String,
    #[serde(rename = "description")]
    _description: serde::de::IgnoredAny,
    keywords: Vec<String>,
    #[serde(default)]
    suffixes: Vec<String>,
    #[serde(default)]
    nocase: bool,
    #[serde(default)]
    before: Before,
    class: String,
    regex: String,
    #[serde(default)]
    min: usize,
    max: usize,
    #[serde(default)]
    entropy: f64,
    #[serde(default)]
    checksum: Option<Checksum>,
    action: Action,
    #[serde(default)]
    response: bool,
    #[serde(rename = "test")]
    _test: serde::de::IgnoredAny,
}

/// What must stand before a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Before {
    /// No letter or digit, except as the end of an escape.
    #[default]
    Boundary,
    /// A digit.
    Digit,
    /// Anything.
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Checksum {
    /// The last six characters are the CRC-32 of the thirty before them, in base 62. GitHub's and
    /// npm's tokens.
    #[serde(rename = "github-crc32")]
    Github,
}

/// A set of bytes.
#[derive(Clone)]
pub(crate) struct Class([bool; 256]);

impl Class {
    /// Reads `A-Za-z0-9_-`: single characters and ranges; a `-` at the end is itself.
    fn new(text: &str) -> Self {
        let mut set = [false; 256];
        let mut rest = text.as_bytes();
        while let [first, after @ ..] = rest {
            let (last, after) = match after {
                [b'-', last, after @ ..] => (last, after),
                _ => (first, after),
            };
            debug_assert!(first <= last, "a class with a range that is none: {text}");
            (*first..=*last).for_each(|b| set[usize::from(b)] = true);
            rest = after;
        }
        Self(set)
    }

    #[inline]
    pub(crate) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }
}

/// A rule, compiled but for its regex.
pub(crate) struct Rule {
    pub(crate) id: std::sync::Arc<str>,
    pub(crate) action: Action,
    pub(crate) direction: Direction,
    pub(crate) keywords: Vec<Box<[u8]>>,
    pub(crate) nocase: bool,
    pub(crate) before: Before,
    pub(crate) class: Class,
    pub(crate) min: usize,
    pub(crate) max: usize,
    entropy: f64,
    checksum: Option<Checksum>,
    pattern: String,
    /// Compiled when the first candidate comes: most never do, and all of them would take longer
    /// than a daemon has.
    regex: OnceLock<Option<Regex>>,
    /// The same for text whose case was lost.
    any_case: OnceLock<Option<Regex>>,
}

/// How a candidate fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    No,
    /// It has the form, up to this length, but not the checksum: an example, or a placeholder.
    Doubtful(usize),
    /// It ends at this length.
    Yes(usize),
}

/// The embedded rules.
pub(crate) fn load() -> Vec<Rule> {
    // The file is part of this crate, and the tests read it.
    let file: File = toml_edit::de::from_str(include_str!("rules.toml"))
        .unwrap_or(File { version: 0, rule: Vec::new() });
    assert!(file.version == 1, "the embedded rules cannot be read");
    file.rule.into_iter().map(Rule::new).collect()
}

impl Rule {
    fn new(row: RuleRow) -> Self {
        let with_suffixes = |keyword: &String| -> Vec<Box<[u8]>> {
            match &row.suffixes[..] {
                [] => vec![keyword.as_bytes().into()],
                suffixes => suffixes
                    .iter()
                    .map(|suffix| format!("{keyword}{suffix}").into_bytes().into())
                    .collect(),
            }
        };
        Self {
            keywords: row.keywords.iter().flat_map(with_suffixes).collect(),
            id: row.id.into(),
            action: row.action,
            direction: if row.response { Direction::Response } else { Direction::Request },
            nocase: row.nocase,
            before: row.before,
            class: Class::new(&row.class),
            min: row.min,
            max: row.max.min(MAX),
            entropy: row.entropy,
            checksum: row.checksum,
            pattern: row.regex,
            regex: OnceLock::new(),
            any_case: OnceLock::new(),
        }
    }

    /// The first bytes by which a keyword is found; one that is too short is filled up with what
    /// the class has.
    pub(crate) fn grams(&self, keyword: &[u8]) -> Vec<[u8; GRAM]> {
        let mut grams = vec![[0; GRAM]];
        for i in 0..GRAM {
            let bytes: Vec<u8> = match keyword.get(i) {
                Some(byte) => vec![*byte],
                None => (0..=u8::MAX).filter(|b| self.class.has(*b)).collect(),
            };
            grams = grams
                .iter()
                .flat_map(|gram| {
                    bytes.iter().map(|byte| {
                        let mut gram = *gram;
                        gram[i] = *byte;
                        gram
                    })
                })
                .collect();
        }
        grams
    }

    fn regex(&self, any_case: bool) -> Option<&Regex> {
        let build = || {
            RegexBuilder::new(&format!("^(?:{})", self.pattern))
                .unicode(false)
                .case_insensitive(any_case)
                .size_limit(1 << 18)
                .dfa_size_limit(1 << 14)
                .build()
                .ok()
        };
        let regex = if any_case { &self.any_case } else { &self.regex };
        regex.get_or_init(build).as_ref()
    }

    /// Judges a whole candidate, keyword first.
    pub(crate) fn judge(&self, candidate: &[u8], any_case: bool) -> Verdict {
        if candidate.len() < self.min {
            return Verdict::No;
        }
        let Some(regex) = self.regex(any_case) else { return Verdict::Yes(candidate.len()) };
        if self.entropy <= 0.0 && self.checksum.is_none() {
            return regex.find(candidate).map_or(Verdict::No, |found| Verdict::Yes(found.end()));
        }
        let Some(captures) = regex.captures(candidate) else { return Verdict::No };
        let Some(whole) = captures.get(0) else { return Verdict::No };
        let value = captures.get(1).unwrap_or(whole).as_bytes();
        if entropy(value) < self.entropy {
            Verdict::No
        } else if self.checksum == Some(Checksum::Github) && !any_case && !github(value) {
            Verdict::Doubtful(whole.end())
        } else {
            Verdict::Yes(whole.end())
        }
    }
}

/// Shannon entropy, bits a byte.
#[allow(clippy::cast_precision_loss)] // candidates are short
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u16; 256];
    bytes.iter().for_each(|b| counts[usize::from(*b)] += 1);
    let len = bytes.len() as f64;
    counts.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / len).map(|p| -p * p.log2()).sum()
}

/// Whether the last six characters are the CRC-32 of the others, in base 62 (github.blog,
/// 2021-04-05, "token formats").
fn github(value: &[u8]) -> bool {
    let Some((entropy, sum)) = value.split_last_chunk::<6>() else { return false };
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'Z' => Some(b - b'A' + 10),
        b'a'..=b'z' => Some(b - b'a' + 36),
        _ => None,
    };
    let value = sum.iter().try_fold(0_u64, |value, b| Some(value * 62 + u64::from(digit(*b)?)));
    value == Some(u64::from(crc32fast::hash(entropy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_githubs() {
        // An expired token that its owner published (coolaj86, gist
        // eb8cddfd3e4251258712dfed03e1f86d).
        assert!(github(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17"));
        assert!(!github(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq18"));
        assert!(!github(b"short"));
    }

    #[test]
    fn every_regex_compiles_and_every_candidate_is_bounded() {
        for rule in load() {
            assert!(rule.regex(false).is_some(), "{}", rule.id);
            assert!(rule.min <= rule.max && rule.max <= MAX, "{}", rule.id);
            for keyword in &rule.keywords {
                assert!(
                    keyword.len() >= 2 && keyword.len() < rule.max && keyword.is_ascii(),
                    "{}",
                    rule.id
                );
            }
        }
    }

    #[test]
    fn entropy_is_shannons() {
        assert!(entropy(b"aaaaaaaa") < 0.01 && (entropy(b"abcdabcd") - 2.0).abs() < 0.01);
    }
}
