//! Patterns for branch and tag names and for e-mail addresses.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::pattern::{PathPattern, matches_wildcard};
use crate::string_type::{GateTextError, string_type};
use crate::text::is_unprintable;

string_type!(RefPattern: GateTextError, EmailPattern: GateTextError);

/// A pattern for branch or tag names (without `refs/heads/` or `refs/tags/`). A `*` matches any
/// part of one segment, as the last segment everything below, and `**` any number of segments.
/// `{agent}` and `{slug}` stand for the names of the agent and of the bottle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefPattern(String);

impl RefPattern {
    /// The pattern with `{agent}` and `{slug}` replaced.
    ///
    /// # Errors
    /// When a name makes the result an invalid pattern.
    pub fn of(&self, agent: &str, slug: &str) -> Result<PathPattern, GateTextError> {
        let text = self.0.replace("{agent}", agent).replace("{slug}", slug);
        format!("/{text}").parse().map_err(|_| GateTextError {
            what: "a pattern of refs",
            text,
            form: EXAMPLES,
        })
    }
}

const EXAMPLES: &str = "such as main, agent/*, {agent}/{slug}/**";

impl FromStr for RefPattern {
    type Err = GateTextError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let this = Self(s.to_owned());
        let whole = !s.is_empty()
            && !s.ends_with(['/', '.'])
            && !s.starts_with("refs/")
            && !s.contains("..");
        let bad =
            || GateTextError { what: "a pattern of refs", text: s.to_owned(), form: EXAMPLES };
        if whole
            && this.of("a", "b").is_ok()
            && !this.0.replace("{agent}", "").replace("{slug}", "").contains(['{', '}'])
        {
            Ok(this)
        } else {
            Err(bad())
        }
    }
}

/// An e-mail address in which `*` matches any characters. Case is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailPattern(String);

impl EmailPattern {
    /// Whether the pattern matches `email`.
    #[must_use]
    pub fn matches(&self, email: &str) -> bool {
        matches_wildcard(&self.0, &email.to_ascii_lowercase())
    }
}

impl FromStr for EmailPattern {
    type Err = GateTextError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = (1..=254).contains(&s.len())
            && !s.contains(|c: char| is_unprintable(c) || c.is_whitespace() || "<>".contains(c));
        let bad = || GateTextError {
            what: "an e-mail pattern",
            text: s.to_owned(),
            form: "such as me@example.com or *@example.com",
        };
        ok.then(|| Self(s.to_ascii_lowercase())).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_their_documentation() {
        let p: RefPattern = "{agent}/{slug}/*".parse().expect("pattern");
        let p = p.of("claude", "b1").expect("names");
        assert!(
            p.matches("/claude/b1/x") && p.matches("/claude/b1/x/y") && !p.matches("/claude/b2/x")
        );
        for bad in
            ["", "a/", "/a", "refs/heads/x", "a//b", "a/../b", "a..b", "a.", "{other}/x", "a b"]
        {
            assert!(bad.parse::<RefPattern>().is_err(), "{bad}");
        }
        let of = |p: &str| p.parse::<EmailPattern>().expect("pattern");
        assert!(
            of("*@Example.com").matches("a@EXAMPLE.com")
                && !of("*@example.com").matches("a@example.com.evil")
        );
        assert!(
            of("a*b*c").matches("a1b2c")
                && !of("a*b*c").matches("ac")
                && of("a@b").matches("a@b")
                && !of("a@b").matches("a@bc")
        );
        assert!(!of("ab*ba").matches("aba"), "pieces do not overlap");
    }
}
