//! The target of a request: checked, and kept as the guest wrote it.

use super::readings;
use crate::egress::refusal::{Refusal, Rule};

/// A path and query as the guest wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Starts with `/`.
    pub path: String,
    /// Without the `?`.
    pub query: Option<String>,
}

impl Target {
    /// Reads `raw`, a request target from its path on.
    ///
    /// # Errors
    /// [`Rule::Path`] for what cannot be sent on safely: bytes that are not printable ASCII,
    /// backslashes, bad escapes, escaped control characters, and fragments.
    pub fn parse(raw: &str) -> Result<Self, Refusal> {
        let bad = |why: &str| Refusal::new(Rule::Path, format!("the path {why}"));
        if !raw.starts_with('/') {
            return Err(bad("does not start with /"));
        }
        if raw.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(bad("has a character that must be escaped"));
        }
        if raw.contains('#') {
            return Err(bad("has a fragment"));
        }
        let (path, query) = match raw.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (raw, None),
        };
        if path.contains('\\') {
            return Err(bad("has a backslash"));
        }
        for escape in path.split('%').skip(1) {
            let digits = escape.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
            match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
                None => return Err(bad("has a % that is no escape")),
                Some(b) if b.is_ascii_control() => {
                    return Err(bad("has an escaped control character"));
                }
                Some(_) => {}
            }
        }
        Ok(Self { path: path.to_owned(), query })
    }

    /// The text of the request line.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// Whether every server reads the path as it is written.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        readings::is_plain(&self.path)
    }

    /// Every way in which a server may read the path, decoded.
    ///
    /// # Errors
    /// [`Rule::Path`] if there are too many.
    pub fn readings(&self) -> Result<Vec<String>, Refusal> {
        readings::readings(&self.path).ok_or_else(|| {
            Refusal::new(Rule::Path, "the path can be read in too many different ways")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_kept() {
        for raw in ["/", "/?", "/a//b/../%61%2f?x=%2e%2E/../", "//key", "/..;/x", "/%5c", "/a??"] {
            assert_eq!(Target::parse(raw).unwrap().path_and_query(), raw);
        }
        let target = Target::parse("/a%2fb?x=1?y").unwrap();
        assert_eq!((target.path.as_str(), target.query.as_deref()), ("/a%2fb", Some("x=1?y")));
        assert!(!target.is_plain() && target.readings().unwrap() == ["/a/b"]);
    }

    #[test]
    fn what_cannot_be_sent_on_safely_is_refused() {
        for raw in [
            "", "a", "/%00", "/%0d%0a", "/%7f", "/%", "/%4", "/%zz", "/%u002f", "/a\\b", "/a#b",
            "/ä", "/a b",
        ] {
            assert!(Target::parse(raw).is_err(), "{raw}");
        }
    }
}
