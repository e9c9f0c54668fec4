//! The bundle's own secrets, in each way that they can be written, cut anywhere.

#![allow(clippy::expect_used)]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bottle_policy::Action;
use bottle_scan::Direction;
use common::{BASIC, Random, SECRET, cuts, pass, profile};

fn each(text: &str, write: impl Fn(u8) -> String) -> String {
    text.bytes().map(write).collect()
}

fn base32(bytes: &[u8]) -> String {
    let bits: Vec<u8> =
        bytes.iter().flat_map(|b| (0..8).rev().map(move |i| (b >> i) & 1)).collect();
    bits.chunks(5)
        .map(|group| (0..5).fold(0, |value, i| (value << 1) | group.get(i).copied().unwrap_or(0)))
        .map(|value: u8| char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from(value)]))
        .collect()
}

/// All ways to write `secret`.
fn forms(secret: &str) -> Vec<(String, String)> {
    let mut forms: Vec<(String, String)> = vec![
        ("plain".into(), secret.into()),
        ("upper case".into(), secret.to_uppercase()),
        ("reversed".into(), secret.chars().rev().collect()),
        ("percent".into(), each(secret, |b| format!("%{b:02x}"))),
        ("percent, upper case".into(), each(secret, |b| format!("%{b:02X}"))),
        ("percent, twice".into(), each(secret, |b| format!("%25{b:02x}"))),
        (
            "percent, needed only".into(),
            each(secret, |b| {
                if b.is_ascii_alphanumeric() {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            }),
        ),
        ("percent u".into(), each(secret, |b| format!("%u00{b:02x}"))),
        ("unicode escapes".into(), each(secret, |b| format!("\\u00{b:02x}"))),
        ("unicode escapes, twice".into(), each(secret, |b| format!("\\\\u00{b:02X}"))),
        ("unicode escapes in braces".into(), each(secret, |b| format!("\\u{{{b:x}}}"))),
        ("long unicode escapes".into(), each(secret, |b| format!("\\U000000{b:02x}"))),
        ("hex escapes".into(), each(secret, |b| format!("\\x{b:02x}"))),
        ("octal escapes".into(), each(secret, |b| format!("\\{b:03o}"))),
        ("HTML, hex".into(), each(secret, |b| format!("&#x{b:x};"))),
        ("HTML, decimal".into(), each(secret, |b| format!("&#{b};"))),
        ("JSON".into(), serde_json(secret)),
        ("hex".into(), hex::encode(secret)),
        ("hex, upper case".into(), hex::encode_upper(secret)),
        (
            "hex, both".into(),
            hex::encode(secret)
                .chars()
                .enumerate()
                .map(|(i, c)| if i % 3 == 0 { c.to_ascii_uppercase() } else { c })
                .collect(),
        ),
        ("hex, spaces".into(), each(secret, |b| format!("{b:02x} "))),
        ("hex, colons".into(), each(secret, |b| format!("{b:02X}:"))),
        ("hex, an array".into(), each(secret, |b| format!("0x{b:02x}, "))),
        (
            "hex, a dump".into(),
            secret.as_bytes().chunks(2).flat_map(|c| [hex::encode(c), " ".into()]).collect(),
        ),
        ("decimal".into(), each(secret, |b| format!("{b},"))),
        ("decimal, spaces".into(), each(secret, |b| format!("{b}, "))),
        ("decimal, lines".into(), each(secret, |b| format!("{b} "))),
        ("UTF-16".into(), each(secret, |b| format!("{}\0", char::from(b)))),
        ("UTF-16, big-endian".into(), each(secret, |b| format!("\0{}", char::from(b)))),
    ];
    for before in 0..5 {
        let text = format!("{}{secret}{}", &"abcd"[..before.min(4)], "xyz");
        forms.push((format!("base32 after {before}"), base32(text.as_bytes())));
        forms.push((
            format!("base32 after {before}, lower case"),
            base32(text.as_bytes()).to_lowercase(),
        ));
        let wide: Vec<u8> = text.bytes().flat_map(|b| [b, 0]).collect();
        forms.push((format!("base64 after {before}"), STANDARD.encode(&text)));
        forms.push((format!("base64url after {before}"), URL_SAFE.encode(&text)));
        forms.push((format!("base64 of UTF-16 after {before}"), STANDARD.encode(wide)));
        for (name, end) in [("lines", "\r\n"), ("escaped lines", "\\n"), ("percent lines", "%0A")] {
            let encoded = STANDARD.encode(&text);
            let lines = encoded
                .as_bytes()
                .chunks(8)
                .flat_map(|c| [String::from_utf8_lossy(c), end.into()])
                .collect();
            forms.push((format!("base64 after {before} in {name}"), lines));
        }
        let escaped = STANDARD.encode(&text).replace('+', "%2B").replace('/', "%2F");
        forms.push((format!("base64 after {before}, percent"), escaped));
        forms.push((
            format!("base64 after {before}, JSON"),
            STANDARD.encode(&text).replace('/', "\\/"),
        ));
    }
    let mut random = Random(3);
    for i in 0..40 {
        let mixed = secret
            .bytes()
            .map(|b| match random.below(6) {
                0 => format!("%{b:02x}"),
                1 => format!("\\u00{b:02X}"),
                2 => format!("\\x{b:02x}"),
                3 => format!("&#{b};"),
                _ if matches!(b, b'%' | b'\\' | b'&') => format!("%{b:02x}"),
                _ => char::from(b).to_string(),
            })
            .collect();
        forms.push((format!("mixed {i}"), mixed));
    }
    forms
}

fn serde_json(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[test]
fn a_secret_is_found_in_any_form_and_cut_anywhere() {
    let profile = profile();
    for secret in [SECRET, BASIC, "robot:only-The*second&part8"] {
        let (secret, name) = if secret == SECRET { (SECRET, "QUOKKA") } else { (BASIC, "ROBOT") };
        for (form, written) in forms(secret) {
            if form.ends_with("twice") && secret.contains(['%', '\\']) {
                continue; // what stands for a character twice escaped then also stands for two that were escaped once
            }
            for (before, after) in [("", ""), ("{\"a\": \"", "\"}"), ("x\\n\\", " "), ("1", "1")] {
                if before == "1"
                    && (form.starts_with("hex")
                        || form.starts_with("dec")
                        || form.starts_with("base"))
                {
                    continue;
                }
                let body = format!("{before}{written}{after}");
                for cut in (0..body.len()).step_by(if before.is_empty() { 1 } else { 11 }) {
                    let passed = pass(&profile, Direction::Request, "", body.as_bytes(), &[cut]);
                    let own = passed.found.iter().find(|f| &*f.rule == "bundle-secret");
                    assert!(
                        own.is_some_and(|f| f.action == Action::Block),
                        "{form}: {body:?} cut at {cut}: {passed:?}"
                    );
                    assert_eq!(
                        own.and_then(|f| f.secret.as_ref()).map(|n| n.as_str()),
                        Some(name),
                        "{form}"
                    );
                }
                let bytes: Vec<usize> = (1..body.len()).collect();
                let whole = pass(&profile, Direction::Request, "", body.as_bytes(), &[]);
                assert_eq!(
                    whole,
                    pass(&profile, Direction::Request, "", body.as_bytes(), &bytes),
                    "{form}: {body:?}"
                );
                assert!(!profile.text(Direction::Request, body.as_bytes()).is_empty());
            }
        }
    }
}

#[test]
fn a_password_is_found_without_its_user() {
    let body = format!("the password is {}", &BASIC[6..]);
    assert_eq!(
        pass(&profile(), Direction::Request, "", body.as_bytes(), &[]).rules(),
        ["bundle-secret"]
    );
}

#[test]
fn a_third_of_a_secret_is_found_so_that_nobody_can_guess_on() {
    let profile = profile();
    let third = (1..SECRET.len()).find(|n| {
        let rules =
            pass(&profile, Direction::Request, "", format!("{} ", &SECRET[..*n]).as_bytes(), &[])
                .rules()
                .len();
        rules > 0
    });
    let third = third.expect("some third");
    assert!(third >= 12 && third <= SECRET.len() * 2 / 3, "{third} of {}", SECRET.len());
    for n in third..SECRET.len() {
        let part = &SECRET[..n];
        let hex = hex::encode(part);
        for text in [
            part.to_owned(),
            format!("{part}?"),
            format!("x {part} y"),
            hex.clone(),
            format!("{hex}zz"),
        ] {
            let whole = pass(&profile, Direction::Request, "", text.as_bytes(), &[]);
            assert_eq!(whole.rules(), ["bundle-secret"], "{text}");
            let cuts: Vec<usize> = (1..text.len()).collect();
            assert_eq!(
                pass(&profile, Direction::Request, "", text.as_bytes(), &cuts).rules(),
                ["bundle-secret"],
                "{text}, byte by byte"
            );
        }
    }
    let answer = format!("{}? ", &SECRET[..third]);
    let passed = pass(&profile, Direction::Response, "", answer.as_bytes(), &[]);
    assert_eq!(
        String::from_utf8_lossy(&passed.out),
        format!("{}{}? ", &SECRET[..3], "*".repeat(third - 3))
    );
}

#[test]
fn small_parts_and_neighbours_of_a_secret_are_not_found() {
    let profile = profile();
    for text in [&SECRET[..11], &SECRET[1..], "1234567", "robot:", &hex::encode(SECRET)[2..]] {
        assert_eq!(
            pass(&profile, Direction::Request, "", text.as_bytes(), &[]).rules(),
            Vec::<&str>::new(),
            "{text}"
        );
    }
}

#[test]
fn a_secret_in_a_long_text_is_found_at_its_place() {
    let profile = profile();
    let mut random = Random(5);
    for _ in 0..20 {
        let before = random.below(200_000);
        let body = [&vec![b' '; before][..], SECRET.as_bytes(), &vec![b' '; random.below(200_000)]]
            .concat();
        let cuts = cuts(&mut random, body.len());
        let passed = pass(&profile, Direction::Request, "", &body, &cuts);
        assert_eq!(
            (passed.found.len(), passed.found[0].offset, passed.out.len()),
            (1, before as u64, before + 3)
        );
    }
}
