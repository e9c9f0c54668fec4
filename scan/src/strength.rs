//! How well a secret can be told from ordinary text.

use std::fmt;

use crate::evidence;

/// Shorter secrets are not looked for: they would be found everywhere.
pub(crate) const MIN_BYTES: usize = 8;
/// Bytes from which on even a secret of one kind of characters is no word.
const LONG_BYTES: usize = 24;

/// Whether a secret can be looked for without finding it in ordinary text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// It can.
    Strong,
    /// It is looked for, and stops ordinary text that holds the same characters. Why.
    Weak(Weakness),
    /// It is not looked for, because it is too short. Why.
    Useless(Weakness),
}

/// Why a secret is weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// It has fewer than 8 bytes.
    Short,
    /// It is a word, or a name and a word.
    Word,
    /// It repeats itself, or counts through an alphabet.
    Pattern,
    /// It has hardly any different characters.
    Monotonous,
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "it has fewer than 8 bytes",
            Self::Word => "it is an ordinary word",
            Self::Pattern => "it repeats itself or counts through an alphabet",
            Self::Monotonous => "it has hardly any different characters",
        })
    }
}

/// How well `secret` can be told from ordinary text. A secret that is useless is not looked for by
/// the scanner. A weak one is, and stops ordinary text that holds it. The operator should hear of
/// both before a bottle starts.
#[must_use]
pub fn strength(secret: &[u8]) -> Strength {
    let parts: Vec<&[u8]> = secret.split(|b| *b == b':').collect();
    if secret.len() < MIN_BYTES {
        return Strength::Useless(Weakness::Short);
    }
    // Of `user:password` the password decides.
    let value = match parts[..] {
        [_, password] if password.len() >= MIN_BYTES => password,
        _ => secret,
    };
    if evidence::entropy(value) < 1.5 {
        return Strength::Weak(Weakness::Monotonous);
    }
    if evidence::is_placeholder(value) {
        return Strength::Weak(Weakness::Pattern);
    }
    if is_word(value) {
        return Strength::Weak(Weakness::Word);
    }
    if evidence::entropy(value) < 2.5 {
        return Strength::Weak(Weakness::Monotonous);
    }
    Strength::Strong
}

/// Whether a value reads like a word or a few: letters of one case (a capital first), perhaps with
/// up to four digits behind, with vowels as words have them.
fn is_word(value: &[u8]) -> bool {
    let digits = value.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let letters = &value[..value.len() - digits];
    if digits > 4 || letters.len() < 4 || value.len() >= LONG_BYTES {
        return false;
    }
    letters.split(|b| b"-_. ".contains(b)).all(|word| {
        let Some((first, rest)) = word.split_first() else { return true };
        let vowels = word.iter().filter(|b| b"aeiouyAEIOUY".contains(b)).count();
        let rest_lower = rest.iter().all(u8::is_ascii_lowercase);
        let upper = word.iter().all(u8::is_ascii_uppercase);
        first.is_ascii_alphabetic()
            && (rest_lower || upper)
            && (word.len() < 4 || vowels * 5 >= word.len() && vowels * 3 <= word.len() * 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_random_secrets() {
        for (secret, expected) in [
            ("1234567", Strength::Useless(Weakness::Short)),
            ("workspace", Strength::Weak(Weakness::Word)),
            ("Production", Strength::Weak(Weakness::Word)),
            ("aaaaaaaaaaaa", Strength::Weak(Weakness::Monotonous)),
            ("developer:developer1", Strength::Weak(Weakness::Word)),
            ("password123", Strength::Weak(Weakness::Word)),
            ("correct-horse-battery", Strength::Weak(Weakness::Word)),
            ("abcdefgh1234", Strength::Weak(Weakness::Pattern)),
            ("your-token-here-0", Strength::Weak(Weakness::Pattern)),
            ("quokka-Vault+7/lemon_Tree~42", Strength::Strong),
            ("robot:p%41ss&w\\ord 9", Strength::Strong),
            ("zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17", Strength::Strong),
            ("8eb7e2f8ac090f673049b7f77030e295", Strength::Strong),
            ("Zx81kQpL", Strength::Strong),
        ] {
            assert_eq!(strength(secret.as_bytes()), expected, "{secret}");
        }
    }
}
