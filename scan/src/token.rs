//! Whether a single value looks like a token, for those who plan a launch.

use std::sync::{Arc, LazyLock};

use bottle_policy::Scan;

use crate::profile::Profile;
use crate::scanner::Scanner;
use crate::shared::Direction;

static PROFILE: LazyLock<Option<Profile>> =
    LazyLock::new(|| Scanner::new(&[]).profile(&Scan::default()).ok());

/// The id of the first rule of `rules.toml` that finds something in `value`, such as `github-pat`;
/// `jwt`, `url-password` and others that only suspect are included. The first call compiles the
/// rules, which takes a millisecond.
#[must_use]
pub fn looks_like_token(value: &str) -> Option<Arc<str>> {
    let found = PROFILE.as_ref()?.text(Direction::Request, value.as_bytes());
    found.into_iter().next().map(|finding| finding.rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_from_other_values() {
        let is = |value: &str| looks_like_token(value).map(|id| id.to_string());
        assert_eq!(is("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").as_deref(), Some("github-pat"));
        assert_eq!(is("postgres://me:VdQ66wAzZMTxqq@db/x").as_deref(), Some("url-password"));
        assert_eq!(is("x86_64-unknown-linux-gnu"), None);
    }
}
