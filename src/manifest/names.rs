//! Small texts that mean something: each is checked once, here, and carries its meaning in its type
//! from then on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not what its key asks for; the text explains, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub(crate) String);

/// A name that is safe as a file name, a host name label and a command-line word:
/// `[a-z0-9][a-z0-9-]{0,31}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(String);

impl Slug {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Slug {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = (1..=32).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.starts_with('-');
        if ok {
            Ok(Self(s.to_owned()))
        } else {
            Err(NameError(format!(
                "not a name: {} (a-z, 0-9 and -, at most 32 characters, no - at the start)",
                quote(s)
            )))
        }
    }
}

/// Variables that the launch itself sets in every guest, so that a manifest may not; lower case
/// stands for both cases.
const RESERVED: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "git_gate_url",
    "mcp_supervise_url",
    "node_extra_ca_certs",
    "ssl_cert_file",
    "ssl_cert_dir",
    "requests_ca_bundle",
    "curl_ca_bundle",
    "git_ssl_cainfo",
    "cargo_http_cainfo",
    "cargo_http_proxy",
    "pip_cert",
    "home",
    "user",
    "logname",
    "path",
    "pwd",
];

/// An environment variable's name: letters, digits, `_`, no digit first, at most 128 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvName(String);

impl EnvName {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the launch sets this variable in the guest itself (proxy, trust stores, home,
    /// `BOTTLE_…`).
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        let lower = self.0.to_ascii_lowercase();
        lower.starts_with("bottle_") || RESERVED.contains(&lower.as_str())
    }
}

impl FromStr for EnvName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = (1..=128).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !s.starts_with(|c: char| c.is_ascii_digit());
        if ok {
            Ok(Self(s.to_owned()))
        } else {
            Err(NameError(format!(
                "not a variable name: {} (letters, digits and _, no digit first)",
                quote(s)
            )))
        }
    }
}

/// A size in bytes, written with a binary unit: `512MiB`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(u64);

const UNITS: &[(&str, u32)] = &[("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl Bytes {
    /// `n` mebibytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The size in mebibytes, rounded down.
    #[must_use]
    pub const fn as_mib(self) -> u64 {
        self.0 >> 20
    }
}

impl FromStr for Bytes {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digits = s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = s.split_at(digits);
        let unit = unit.trim_start_matches(' ');
        if let (Ok(number), Some((_, shift))) =
            (number.parse::<u64>(), UNITS.iter().find(|(name, _)| *name == unit))
        {
            return number
                .checked_mul(1 << shift)
                .map(Self)
                .ok_or_else(|| NameError(format!("a size out of all bounds: {}", quote(s))));
        }
        let wanted = unit.chars().next().map(|c| c.to_ascii_uppercase());
        let meant = UNITS
            .iter()
            .find(|(name, _)| name.chars().next() == wanted)
            .filter(|_| !number.is_empty());
        let example =
            meant.map_or_else(|| "2GiB".to_owned(), |(name, _)| format!("{number}{name}"));
        Err(NameError(format!(
            "not a size: {} (a whole number and KiB, MiB, GiB or TiB, such as {example})",
            quote(s)
        )))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0 >= 1 << shift && self.0 % (1 << shift) == 0) {
            Some((name, shift)) => write!(f, "{} {name}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

macro_rules! text {
    ($($t:ty),*) => {$(
        impl TryFrom<String> for $t {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, Self::Error> { s.parse() }
        }
        impl From<$t> for String {
            fn from(v: $t) -> Self { v.0 }
        }
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    )*};
}
text!(Slug, EnvName);

/// `s` between backticks for a message, neutralised and shortened.
pub(crate) fn quote(s: &str) -> String {
    const LONGEST: usize = 64;
    if s.chars().count() <= LONGEST {
        return format!("`{}`", super::neutral(s));
    }
    let head: String = s.chars().take(LONGEST).collect();
    format!("`{}…`", super::neutral(&head))
}

/// The candidate that `word` was probably meant to be, if one is near.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
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
