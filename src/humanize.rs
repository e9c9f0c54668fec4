//! Sizes and ages as people read them: one way for every command and screen.

/// Bytes in at most seven characters and decimal units, such as `12.3 MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match units.iter().find(|(factor, _)| bytes >= *factor) {
        Some((factor, unit)) => {
            format!("{}.{} {unit}", bytes / factor, bytes % factor / (factor / 10))
        }
        None => format!("{bytes} B"),
    }
}

/// The time between two moments (milliseconds since 1970) in whole units, such as `5m`.
#[must_use]
pub fn age(then_ms: u64, now_ms: u64) -> String {
    match now_ms.saturating_sub(then_ms) / 1000 {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// At most five of `names`, and how many there are besides.
#[must_use]
pub fn some_of(names: &[String]) -> String {
    const MOST: usize = 5;
    let shown = names[..names.len().min(MOST)].join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (3_456, "3.4 kB"),
            (12_345_678, "12.3 MB"),
            (u64::MAX, "18446744073.7 GB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn ages_are_in_whole_units() {
        const SECOND: u64 = 1000;
        for (then, now, shown) in [
            (0, 59 * SECOND, "59s"),
            (0, 60 * SECOND, "1m"),
            (0, 3600 * SECOND, "1h"),
            (0, 3 * 86_400 * SECOND, "3d"),
            (SECOND, 0, "0s"), // a clock that was set back
        ] {
            assert_eq!(age(then, now), shown);
        }
    }
}
