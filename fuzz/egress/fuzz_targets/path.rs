//! `PATTERN\nTARGET`. A target is kept as it is written. Its readings must include one that has
//! nothing left to decode or resolve. A pattern must match what its documentation says, according to
//! a second matcher that is slow and simple.
#![no_main]

use bottle_bundle::egress::request::target::Target;
use bottle_policy::PathPattern;
use libfuzzer_sys::fuzz_target;

/// Matches `*` with any number of bytes.
fn segment(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|n| segment(rest, &text[n..])),
        Some((b, rest)) => text.first() == Some(b) && segment(rest, &text[1..]),
    }
}

/// Matches as the documentation of `PathPattern` says.
fn matches(pattern: &[&str], path: &[&str]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ["*" | "**"] => !path.is_empty(),
        ["**", rest @ ..] => (0..=path.len()).any(|n| matches(rest, &path[n..])),
        [first, rest @ ..] => {
            path.first().is_some_and(|s| segment(first.as_bytes(), s.as_bytes()))
                && matches(rest, &path[1..])
        }
    }
}

fuzz_target!(|text: &str| {
    let (pattern, raw) = text.split_once('\n').unwrap_or(("/*", text));
    let pattern = pattern.parse::<PathPattern>().ok();
    if let Some(pattern) = &pattern {
        assert_eq!(pattern.as_str().parse::<PathPattern>().expect("its own text"), *pattern);
    }
    let Ok(target) = Target::parse(raw) else { return };
    assert_eq!(target.path_and_query(), raw);
    let Ok(readings) = target.readings() else { return };
    assert!(!target.is_plain() || readings == [target.path.clone()], "{readings:?}");
    assert!(readings.iter().all(|path| path.starts_with('/')), "{readings:?}");
    let settled = |path: &&String| {
        let ends = |segment: &str| matches!(segment, "." | "..");
        !path.contains("//") && !path.contains(['\\', ';', '?', '#']) && !path.split('/').any(ends)
    };
    assert!(readings.iter().any(|path| settled(&path)), "{readings:?}");

    let Some(pattern) = pattern else { return };
    for path in readings.iter().filter(|path| path.len() <= 32) {
        if pattern.as_str().len() <= 24 {
            let pieces: Vec<&str> = pattern.as_str()[1..].split('/').collect();
            let segments: Vec<&str> = path[1..].split('/').collect();
            let matched = pattern.matches(path);
            assert_eq!(matched, matches(&pieces, &segments), "{} {path}", pattern.as_str());
        }
    }
});
