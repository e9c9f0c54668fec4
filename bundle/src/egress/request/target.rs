//! The normal form of a path, in which it is matched and sent on (RFC 3986 section 6.2.2).

use crate::egress::refusal::{Refusal, Rule};

/// A path and query in normal form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Starts with `/`. Has no dot segment, no `//` and no escape of an unreserved character; escapes
    /// are in upper case.
    pub path: String,
    /// As the guest sent it, without the `?`.
    pub query: Option<String>,
    /// Whether the path holds `%2F`, which some servers read as `/`. Such a path cannot be matched
    /// against path rules.
    pub encoded_slash: bool,
}

impl Target {
    /// The text of the request line.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// Brings `raw`, a request target from its path on, into normal form.
///
/// # Errors
/// [`Rule::Path`] for what different servers read differently: backslashes and their escape, escaped
/// control characters, bad escapes, `..;` segments, fragments, and bytes that are not ASCII.
pub fn normalise(raw: &str) -> Result<Target, Refusal> {
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
    let (decoded, encoded_slash) = decode(path)?;
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/').skip(1) {
        match segment {
            // `//` and `/./` mean the same as `/`. At the end of the path the slash is kept.
            "" | "." => {}
            ".." => drop(segments.pop()),
            s if s.starts_with(".;") || s.starts_with("..;") => {
                return Err(bad("has a dot segment with a parameter"));
            }
            s => segments.push(s),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if segments.is_empty() || matches!(decoded.rsplit('/').next(), Some("" | "." | "..")) {
        normal.push('/');
    }
    Ok(Target { path: normal, query, encoded_slash })
}

/// Decodes escapes of unreserved characters, refuses dangerous ones, and writes the others in upper
/// case. Returns whether there is an escaped slash.
fn decode(path: &str) -> Result<(String, bool), Refusal> {
    let bad = |why: &str| Refusal::new(Rule::Path, format!("the path {why}"));
    let mut out = String::with_capacity(path.len());
    let mut encoded_slash = false;
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'\\' => return Err(bad("has a backslash")),
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let (Some(hi), Some(lo)) = (digit(bytes.next()), digit(bytes.next())) else {
                    return Err(bad("has a % that is no escape"));
                };
                match char::from_u32(hi * 16 + lo).unwrap_or('\0') {
                    '\\' => return Err(bad("has an escaped backslash")),
                    c if c.is_ascii_control() => {
                        return Err(bad("has an escaped control character"));
                    }
                    c if c.is_ascii_alphanumeric() || "-._~".contains(c) => out.push(c),
                    c => {
                        encoded_slash |= c == '/';
                        out.push_str(&format!("%{hi:X}{lo:X}"));
                    }
                }
            }
            b => out.push(char::from(b)),
        }
    }
    Ok((out, encoded_slash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_spellings_become_one() {
        for (raw, want) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/../../x", "/x"),
            ("//a///b", "/a/b"),
            ("/%61%2d%7E", "/a-~"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E./b", "/b"),
            ("/a%c3%a4", "/a%C3%A4"),
            ("/a%252e%252e/b", "/a%252e%252e/b"),
            ("/.../..a", "/.../..a"),
            ("/a/.", "/a/"),
        ] {
            let got = normalise(raw).unwrap();
            assert_eq!(got.path, want, "{raw}");
            assert_eq!(normalise(&got.path).unwrap().path, want, "not a fixed point: {raw}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for raw in [
            "", "a", "/a\\b", "/%5c", "/%00", "/%0d%0a", "/%7f", "/%", "/%4", "/%zz", "/a#b", "/ä",
            "/a b", "/..;/x", "/.;a/x",
        ] {
            assert!(normalise(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn the_query_is_kept_and_an_encoded_slash_is_reported() {
        let t = normalise("/a%2fb?x=%2e%2E/../#".trim_end_matches('#')).unwrap();
        assert_eq!(
            (t.path.as_str(), t.query.as_deref(), t.encoded_slash),
            ("/a%2Fb", Some("x=%2e%2E/../"), true)
        );
        assert_eq!(t.path_and_query(), "/a%2Fb?x=%2e%2E/../");
    }
}
