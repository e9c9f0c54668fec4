//! Text that a guest or an upstream chose: what may be a ref's name, and what a terminal may show.

use bottle_policy::text::is_unprintable;

/// Longest text that a message quotes, in characters.
const MAX_QUOTED_CHARS: usize = 200;
/// Longest name of a ref, in bytes.
const MAX_REF_NAME_BYTES: usize = 512;

/// Whether git accepts `name` as a full ref name, see git-check-ref-format(1), and a terminal shows
/// it unchanged.
#[must_use]
pub fn is_ref_name(name: &str) -> bool {
    let bad =
        |c: char| is_unprintable(c) || c.is_whitespace() || "~^:?*[\\\"'`$|&;<>(){}".contains(c);
    let component = |c: &str| {
        !c.is_empty()
            && !c.starts_with(['.', '-'])
            && !c.ends_with('.')
            && !c.to_ascii_lowercase().ends_with(".lock")
    };
    name.starts_with("refs/")
        && name.split('/').count() > 2
        && name.len() <= MAX_REF_NAME_BYTES
        && !name.contains(bad)
        && !name.contains("..")
        && !name.contains("@{")
        && name.split('/').all(component)
        && !name.ends_with("/@")
        && !name.ends_with("/HEAD")
}

/// `text` for a message: cut to 200 characters; control and hidden characters become U+FFFD.
#[must_use]
pub fn printable(text: &str) -> String {
    bottle_policy::text::replace(text, '\u{fffd}', MAX_QUOTED_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ref_names_follow_the_rules_of_git() {
        for good in [
            "refs/heads/x",
            "refs/heads/a/b-c.d",
            "refs/tags/v1",
            "refs/heads/ä",
            "refs/heads/a@b",
            "refs/heads/#1",
        ] {
            assert!(is_ref_name(good), "{good}");
        }
        for bad in [
            "",
            "x",
            "HEAD",
            "refs/heads",
            "refs/heads/",
            "refs//x",
            "refs/heads/.x",
            "refs/heads/x.lock",
            "refs/heads/x.LOCK/y",
            "refs/heads/x..y",
            "refs/heads/x y",
            "refs/heads/x\n",
            "refs/heads/x~1",
            "refs/heads/@{x}",
            "refs/heads/-x",
            "refs/heads/x\u{202e}y",
            "refs/heads/x.",
            "refs/heads/HEAD",
            "refs/heads/$(x)",
            "../refs/heads/x",
            "refs/heads/../../x",
            "refs/heads/x:y",
        ] {
            assert!(!is_ref_name(bad), "{bad}");
        }
    }
}
