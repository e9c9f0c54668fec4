//! The rules as data: `rules.toml`, and what is made of it.

use std::sync::OnceLock;

use bottle_policy::Action;
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::evidence;
use crate::shared::{Direction, GRAM};

/// Largest that a rule's `max` may be, bytes: what is remembered of a stream for a rule's sake.
pub(crate) const MAX: usize = 512;

/// Fewest bytes of a value that are judged by themselves.
const MIN_EVIDENCE: usize = 16;

/// Fewest bytes of a value that must be in the first of several fields.
const MIN_JOINED: usize = 6;

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
    elsewhere: Option<Action>,
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
    /// The same where the request goes to a host that is not a credential's own.
    pub(crate) elsewhere: Action,
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
            elsewhere: row.elsewhere.unwrap_or(row.action),
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

    /// Whether ordinary code has what it finds.
    pub(crate) fn is_suspicion(&self) -> bool {
        self.direction == Direction::Request && self.action == Action::Warn
    }

    pub(crate) fn has_checksum(&self) -> bool {
        self.checksum.is_some()
    }

    /// Whether a candidate may go on in the next field of a list or an object: some of its value
    /// must be there.
    pub(crate) fn joins(&self, keyword: &[u8], value: &[u8]) -> bool {
        !self.is_suspicion()
            && self.entropy > 0.0
            && keyword.len() >= 4
            && value.len() >= MIN_JOINED
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
        let Some(captures) = regex.captures(candidate) else { return Verdict::No };
        let Some(whole) = captures.get(0) else { return Verdict::No };
        let group = captures.get(1).unwrap_or(whole);
        let value = group.as_bytes();
        if evidence::is_example(candidate) || evidence::is_example(value) {
            return Verdict::No;
        }
        if self.entropy > 0.0 {
            // Whoever writes something behind a token must not hide it by that, so its beginning
            // counts alone, too.
            let least = self.min.saturating_sub(group.start()).max(MIN_EVIDENCE).min(value.len());
            let head = &value[..least];
            if evidence::entropy(value).max(evidence::entropy(head)) < self.entropy
                || evidence::is_placeholder(head)
                || self.direction == Direction::Request && !evidence::is_mixed(value)
            {
                return Verdict::No;
            }
        }
        if self.checksum == Some(Checksum::Github)
            && !any_case
            && !evidence::has_github_checksum(value)
        {
            Verdict::Doubtful(whole.end())
        } else {
            Verdict::Yes(whole.end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
