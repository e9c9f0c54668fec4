//! Sizes in bytes and durations, as a manifest writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::names::NameError;
use super::text::quote;

/// A number of bytes. A manifest writes traffic with decimal or binary units (`10MB`, `64KiB`), and
/// the machine's memory and disk with binary units only ([`ByteSize::parse_binary`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

/// Units and their bytes, largest first. Display uses the first unit that divides the size.
const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
];

impl ByteSize {
    /// `n` bytes.
    #[must_use]
    pub const fn bytes(n: u64) -> Self {
        Self(n)
    }

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

    /// A size with a binary unit: `512MiB`, `2GiB`.
    ///
    /// # Errors
    /// Any other text; the message suggests the binary unit that was probably meant.
    pub fn parse_binary(s: &str) -> Result<Self, NameError> {
        let (number, unit) = split(s);
        let binary = || UNITS.iter().filter(|(name, _)| name.ends_with("iB"));
        let found = binary().find(|(name, _)| *name == unit);
        if let (Ok(number), Some((_, factor))) = (number.parse::<u64>(), found) {
            return number
                .checked_mul(*factor)
                .map(Self)
                .ok_or_else(|| NameError(format!("a size out of all bounds: {}", quote(s))));
        }
        let first = unit.chars().next().map(|c| c.to_ascii_uppercase());
        let meant = binary().find(|(name, _)| name.chars().next() == first);
        let example = match meant.filter(|_| !number.is_empty()) {
            Some((name, _)) => format!("{number}{name}"),
            None => "2GiB".to_owned(),
        };
        Err(NameError(format!(
            "not a size: {} (a whole number and KiB, MiB, GiB or TiB, such as {example})",
            quote(s)
        )))
    }
}

impl FromStr for ByteSize {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split(s);
        let found = UNITS.iter().find(|(name, _)| *name == unit && unit != "TiB");
        if let (Ok(number), Some((_, factor))) = (number.parse::<u64>(), found) {
            return number
                .checked_mul(*factor)
                .map(Self)
                .ok_or_else(|| NameError(format!("an amount out of all bounds: {}", quote(s))));
        }
        Err(NameError(format!(
            "not an amount of data: {} (a whole number and B, kB, MB, GB, KiB, MiB or GiB, such as 10MB)",
            quote(s)
        )))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0 % factor == 0) {
            Some((unit, factor)) => write!(f, "{} {unit}", self.0 / factor),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// How long something lasts, in whole seconds: `30s`, `10m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Interval(u64);

impl Interval {
    /// `n` seconds.
    #[must_use]
    pub const fn seconds(n: u64) -> Self {
        Self(n)
    }

    /// The same as a `Duration`.
    #[must_use]
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0)
    }
}

impl FromStr for Interval {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split(s);
        let factor = match unit {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            _ => None,
        };
        let seconds =
            number.parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
        seconds.map(Self).ok_or_else(|| {
            NameError(format!(
                "not a duration: {} (a whole number and s, m or h, such as 10m)",
                quote(s)
            ))
        })
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n % 3600 == 0 => write!(f, "{}h", n / 3600),
            n if n > 0 && n % 60 == 0 => write!(f, "{}m", n / 60),
            n => write!(f, "{n}s"),
        }
    }
}

/// The digits at the start, and what follows them.
fn split(s: &str) -> (&str, &str) {
    let digits = s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = s.split_at(digits);
    (number, unit.trim_start_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_decimal_or_binary_as_written() {
        for (text, bytes, shown) in [
            ("10MB", 10_000_000, "10 MB"),
            ("10 MiB", 10 << 20, "10 MiB"),
            ("1GB", 1_000_000_000, "1 GB"),
            ("2GiB", 2 << 30, "2 GiB"),
            ("64kB", 64_000, "64 kB"),
            ("64KB", 64_000, "64 kB"),
            ("64KiB", 65_536, "64 KiB"),
            ("1500B", 1500, "1500 B"),
            ("0B", 0, "0 B"),
        ] {
            let amount: ByteSize = text.parse().unwrap();
            assert_eq!((amount.get(), amount.to_string().as_str()), (bytes, shown), "{text}");
        }
        for bad in [
            "",
            "MB",
            "10",
            "10M",
            "10mb",
            "1.5MB",
            "-1MB",
            "+1MB",
            "10 TB",
            "99999999999GiB",
            "10MB ",
            "0x1B",
        ] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn intervals_are_seconds_minutes_or_hours() {
        for (text, seconds, shown) in
            [("90s", 90, "90s"), ("10m", 600, "10m"), ("60s", 60, "1m"), ("2h", 7200, "2h")]
        {
            let interval: Interval = text.parse().unwrap();
            assert_eq!(
                (interval, interval.to_string().as_str()),
                (Interval::seconds(seconds), shown),
                "{text}"
            );
        }
        for bad in ["", "m", "10", "10min", "1.5h", "-1s", "1d", "99999999999999999h"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
    }
}
