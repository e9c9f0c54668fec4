//! Untrusted text in messages.

/// `text` made safe for a terminal: control characters (ANSI included), bidirectional overrides,
/// zero-width and other invisible characters become visible escapes; everything else stays.
#[must_use]
pub fn neutral(text: &str) -> String {
    bottle_policy::text::escape(text).into_owned()
}

/// `s` between backticks for a message, neutralised and shortened.
#[must_use]
pub fn quote(s: &str) -> String {
    const LONGEST: usize = 64;
    if s.chars().count() <= LONGEST {
        return format!("`{}`", neutral(s));
    }
    let head: String = s.chars().take(LONGEST).collect();
    format!("`{}…`", neutral(&head))
}

/// The candidate that `word` was probably meant to be, if one is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&lower, c), c))
        .filter(|(distance, c)| *distance <= 1 + c.len().min(word.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}
