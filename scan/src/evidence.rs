//! What tells a real token from an example, a placeholder, or a word that happens to fit.

use std::sync::LazyLock;

/// Tokens that vendors publish in their documentation: they open nothing. `examples.txt` has `<>`
/// inside each, so that other scanners pass it by.
static EXAMPLES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let lines = include_str!("examples.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.trim().replace("<>", "").into_bytes()).filter(|e| !e.is_empty()).collect()
});

/// Words that nobody finds in a random token, and that placeholders are made of.
const PLACEHOLDERS: &[&[u8]] = &[
    b"example",
    b"placeholder",
    b"changeme",
    b"redacted",
    b"dummy",
    b"your_",
    b"your-",
    b"xxxxxx",
];

/// Length of a run such as `abcdefgh` that no random token has.
const MAX_RUN: usize = 8;
/// Longest part that a placeholder repeats.
const MAX_PERIOD: usize = 8;

/// Shannon entropy, bits a byte.
#[allow(clippy::cast_precision_loss)] // candidates are short
pub(crate) fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u16; 256];
    bytes.iter().for_each(|b| counts[usize::from(*b)] += 1);
    let len = bytes.len() as f64;
    counts.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / len).map(|p| -p * p.log2()).sum()
}

/// Whether there are both letters and digits.
pub(crate) fn is_mixed(value: &[u8]) -> bool {
    value.iter().any(u8::is_ascii_digit) && value.iter().any(u8::is_ascii_alphabetic)
}

/// Whether this is a vendor's published example, whatever stands behind it.
pub(crate) fn is_example(token: &[u8]) -> bool {
    EXAMPLES.iter().any(|example| token.starts_with(example))
}

/// Whether somebody wrote this to stand for a token: a word for that, a run of the alphabet, or
/// one part again and again.
pub(crate) fn is_placeholder(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    let has = |word: &&[u8]| lower.windows(word.len()).any(|window| window == *word);
    PLACEHOLDERS.iter().any(has) || has_run(&lower) || is_periodic(&lower)
}

/// Whether each of some bytes is the successor of the one before.
fn has_run(value: &[u8]) -> bool {
    let mut len = 1;
    value.windows(2).any(|pair| {
        len = if pair[0].checked_add(1) == Some(pair[1]) { len + 1 } else { 1 };
        len >= MAX_RUN
    })
}

fn is_periodic(value: &[u8]) -> bool {
    value.len() >= 2 * MAX_PERIOD
        && (1..=MAX_PERIOD).any(|period| value[period..] == value[..value.len() - period])
}

/// Whether the last six characters are the CRC-32 of the others, in base 62 (github.blog,
/// 2021-04-05, "token formats"). GitHub's and npm's tokens.
pub(crate) fn has_github_checksum(value: &[u8]) -> bool {
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
        assert!(has_github_checksum(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17"));
        assert!(!has_github_checksum(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq18"));
        assert!(!has_github_checksum(b"short"));
    }

    #[test]
    fn entropy_is_shannons() {
        assert!(entropy(b"aaaaaaaa") < 0.01 && (entropy(b"abcdabcd") - 2.0).abs() < 0.01);
    }

    #[test]
    fn placeholders_are_told_from_tokens() {
        for value in [
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "IOSFODNN7EXAMPLE",
            "xxxxxxxxxxxxxxxxxxxx",
            "1234567890abcdef1234567890abcdef",
            "deadbeefdeadbeefdeadbeefdeadbeef",
            "your-token-0123",
        ] {
            assert!(is_placeholder(value.as_bytes()), "{value}");
        }
        for value in ["zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17", "65ae8534310fff4332ad2e3a0d80ed1c"] {
            assert!(!is_placeholder(value.as_bytes()), "{value}");
        }
    }
}
