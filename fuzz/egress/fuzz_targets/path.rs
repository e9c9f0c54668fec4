//! `PATTERN\nTARGET`: a normalised path is normal, stays so and has nothing in it that servers read
//! in two ways; and a pattern matches what its description says, by a second matcher that is slow
//! and plain.
#![no_main]

use bottle_bundle::egress::request::target::normalise;
use bottle_policy::PathPattern;
use libfuzzer_sys::fuzz_target;

/// `*` for any number of bytes.
fn segment(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|n| segment(rest, &text[n..])),
        Some((b, rest)) => text.first() == Some(b) && segment(rest, &text[1..]),
    }
}

/// As the documentation of `PathPattern` says it.
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
    let Ok(target) = normalise(raw) else { return };
    let path = &target.path;
    assert!(path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()), "{path}");
    assert!(!path.contains("//") && !path.contains(['\\', '?', '#']), "{path}");
    for segment in path.split('/') {
        assert!(
            !matches!(segment, "." | "..")
                && !segment.starts_with(".;")
                && !segment.starts_with("..;"),
            "{path}"
        );
    }
    for escape in path.split('%').skip(1) {
        let byte = u8::from_str_radix(&escape[..2], 16).expect("an escape");
        assert!(
            !byte.is_ascii_control()
                && byte != b'\\'
                && !byte.is_ascii_alphanumeric()
                && !b"-._~".contains(&byte),
            "{path}"
        );
        assert!(!escape[..2].bytes().any(|b| b.is_ascii_lowercase()), "{path}");
    }
    // It may have been in a segment that `..` took away.
    assert!(target.encoded_slash || !path.contains("%2F"), "{path}");
    let again = normalise(&target.path_and_query()).expect("what is normal is accepted");
    assert_eq!((&again.path, &again.query), (path, &target.query));

    let Some(pattern) = pattern else { return };
    let matched = pattern.matches(path);
    assert_eq!(matched, pattern.matches(&again.path));
    if pattern.as_str().len() <= 24 && path.len() <= 32 {
        let pieces: Vec<&str> = pattern.as_str()[1..].split('/').collect();
        let segments: Vec<&str> = path[1..].split('/').collect();
        assert_eq!(matched, matches(&pieces, &segments), "{} {path}", pattern.as_str());
    }
});
