//! Ways to get a credential past the scanner, one named row each, and the same with the view that
//! finds it switched off: then it must be missed, or the row shows nothing.

#![allow(clippy::expect_used)]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bottle_policy::{Action, Scan};
use bottle_scan::{Direction, Scanner, View};
use common::{SECRET, pass, scanner};

/// Of GitHub, with its checksum.
const TOKEN: &str = "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";

struct Row {
    name: &'static str,
    /// The view without which it is missed.
    view: View,
    body: Vec<u8>,
}

fn row(name: &'static str, view: View, body: impl Into<Vec<u8>>) -> Row {
    Row { name, view, body: body.into() }
}

fn each(text: &str, write: impl Fn(u8) -> String) -> String {
    text.bytes().map(write).collect()
}

/// `text` with `between` behind each of its characters.
fn spread(text: &str, between: &str) -> String {
    each(text, |b| format!("{}{between}", char::from(b)))
}

/// `text` with its character at `at` written otherwise.
fn one(text: &str, at: usize, write: impl Fn(u8) -> String) -> String {
    format!("{}{}{}", &text[..at], write(text.as_bytes()[at]), &text[at + 1..])
}

fn shifted(text: &str, base: u32) -> String {
    text.bytes().map(|b| char::from_u32(base + u32::from(b)).expect("a character")).collect()
}

fn mathematical(text: &str) -> String {
    let math = |b: u8| match b {
        b'A'..=b'Z' => 0x1d5a0 + u32::from(b - b'A'),
        b'a'..=b'z' => 0x1d5ba + u32::from(b - b'a'),
        b'0'..=b'9' => 0x1d7e2 + u32::from(b - b'0'),
        other => u32::from(other),
    };
    text.bytes().map(|b| char::from_u32(math(b)).expect("a character")).collect()
}

fn lines(text: &str, len: usize, end: &str) -> String {
    let lines: Vec<&str> =
        text.as_bytes().chunks(len).filter_map(|l| std::str::from_utf8(l).ok()).collect();
    lines.join(end)
}

fn escapes() -> Vec<Row> {
    use View::Escapes;
    let u = |b: u8| format!("\\u{:04x}", b);
    let percent = |b: u8| format!("%{b:02X}");
    vec![
        row("JSON escapes", Escapes, format!("{{\"t\":\"{}\"}}", each(TOKEN, u))),
        row("JSON escapes, upper case", Escapes, each(TOKEN, |b| format!("\\u{b:04X}"))),
        row("JSON escape of the first character", Escapes, one(TOKEN, 0, u)),
        row("JSON escape inside the keyword", Escapes, one(TOKEN, 2, u)),
        row("JSON escape of the underscore", Escapes, one(TOKEN, 3, u)),
        row("JSON escape in the value", Escapes, one(TOKEN, 20, u)),
        row("JSON escape of the last character", Escapes, one(TOKEN, 39, u)),
        row("JSON escapes, twice", Escapes, each(TOKEN, |b| format!("\\\\u{b:04x}"))),
        row("hex escapes of string literals", Escapes, each(TOKEN, |b| format!("\\x{b:02x}"))),
        row("octal escapes", Escapes, each(TOKEN, |b| format!("\\{b:03o}"))),
        row("braced escapes", Escapes, each(TOKEN, |b| format!("\\u{{{b:x}}}"))),
        row("long escapes", Escapes, each(TOKEN, |b| format!("\\U{b:08x}"))),
        row("percent encoding", Escapes, each(TOKEN, percent)),
        row("percent encoding in a form", Escapes, format!("a=b&c={}&d=e", each(TOKEN, percent))),
        row("percent encoding of the first character", Escapes, one(TOKEN, 0, percent)),
        row("percent encoding in the value", Escapes, one(TOKEN, 25, percent)),
        row("percent encoding of the underscore", Escapes, TOKEN.replace('_', "%5f")),
        row("percent u", Escapes, each(TOKEN, |b| format!("%u00{b:02x}"))),
        row("decimal references", Escapes, each(TOKEN, |b| format!("&#{b};"))),
        row("hex references", Escapes, each(TOKEN, |b| format!("&#x{b:x};"))),
        row("references with zeros", Escapes, each(TOKEN, |b| format!("&#{b:06};"))),
        row("one reference in the value", Escapes, one(TOKEN, 12, |b| format!("&#{b};"))),
        row("quoted-printable", Escapes, each(TOKEN, |b| format!("={b:02X}"))),
        row(
            "quoted-printable soft line break",
            Escapes,
            format!("{}=\r\n{}", &TOKEN[..20], &TOKEN[20..]),
        ),
        row(
            "a mix of escapes",
            Escapes,
            format!("gh&#112;\\u005f{}", one(&TOKEN[4..], 3, percent)),
        ),
        row(
            "a JWT in JSON escapes",
            Escapes,
            each(
                "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI5MzQ1Njc4OTEifQ.Zk3x9Qv7LmN2pR8sT4uW6yA1bC5dE0fG",
                u,
            ),
        ),
    ]
}

fn invisible() -> Vec<Row> {
    use View::Escapes;
    vec![
        row("zero width spaces", Escapes, spread(TOKEN, "\u{200b}")),
        row("zero width joiner in the keyword", Escapes, TOKEN.replace('h', "h\u{200d}")),
        row("soft hyphens", Escapes, spread(TOKEN, "\u{ad}")),
        row("one soft hyphen in the value", Escapes, TOKEN.replace("SO", "S\u{ad}O")),
        row("tag characters between", Escapes, spread(TOKEN, "\u{e0041}")),
        row("tag characters alone", Escapes, shifted(TOKEN, 0xe0000)),
        row("combining characters", Escapes, spread(TOKEN, "\u{301}")),
        row("variation selectors", Escapes, spread(TOKEN, "\u{fe0f}")),
        row("no-break spaces", Escapes, spread(TOKEN, "\u{a0}")),
        row("byte order marks", Escapes, spread(TOKEN, "\u{feff}")),
        row("word joiners", Escapes, spread(TOKEN, "\u{2060}")),
        row("NUL between", Escapes, spread(TOKEN, "\0")),
        row("one NUL in the keyword", Escapes, TOKEN.replace("hp", "h\0p")),
        row("escaped zero width spaces", Escapes, spread(TOKEN, "\\u200b")),
        row("percent-encoded zero width spaces", Escapes, spread(TOKEN, "%E2%80%8B")),
        row("references to soft hyphens", Escapes, spread(TOKEN, "&shy;")),
        row("full width", Escapes, shifted(TOKEN, 0xfee0)),
        row("full width in the keyword", Escapes, TOKEN.replace('g', "ｇ")),
        row(
            "full width, escaped",
            Escapes,
            each(TOKEN, |b| format!("\\u{:04x}", 0xfee0 + u32::from(b))),
        ),
        row("mathematical letters", Escapes, mathematical(TOKEN)),
        row("Cyrillic look-alikes", Escapes, TOKEN.replace('p', "р").replace('c', "с")),
        row("Greek look-alikes", Escapes, TOKEN.replace('O', "Ο")),
        row(
            "another dash",
            Escapes,
            "xoxb-260110813871-3383261062448-e3xnPDHrGsPDSOjahBCSMaDc".replace('-', "\u{2010}"),
        ),
        row(
            "UTF-16, little-endian",
            Escapes,
            TOKEN.bytes().flat_map(|b| [b, 0]).collect::<Vec<u8>>(),
        ),
        row("UTF-16, big-endian", Escapes, TOKEN.bytes().flat_map(|b| [0, b]).collect::<Vec<u8>>()),
        row(
            "UTF-16 with a byte order mark",
            Escapes,
            [0xff, 0xfe].into_iter().chain(TOKEN.bytes().flat_map(|b| [b, 0])).collect::<Vec<u8>>(),
        ),
    ]
}

fn encoded() -> Vec<Row> {
    use View::Encodings;
    let base64 = STANDARD.encode(format!("the token is {TOKEN}."));
    vec![
        row("Base64", Encodings, STANDARD.encode(TOKEN)),
        row("Base64 after one byte", Encodings, STANDARD.encode(format!(" {TOKEN}"))),
        row("Base64 after two bytes", Encodings, STANDARD.encode(format!("= {TOKEN}"))),
        row("Base64 without padding", Encodings, STANDARD_NO_PAD.encode(TOKEN)),
        row("base64url", Encodings, URL_SAFE.encode(format!("?>{TOKEN}?>"))),
        row("base64url in a query", Encodings, format!("/?q={}", URL_SAFE_NO_PAD.encode(TOKEN))),
        row("a data URI", Encodings, format!("data:text/plain;base64,{base64}")),
        row(
            "Basic credentials",
            Encodings,
            format!("Basic {}", STANDARD.encode(format!("x:{TOKEN}"))),
        ),
        row("MIME lines", Encodings, lines(&base64, 76, "\r\n")),
        row("lines of 64", Encodings, lines(&base64, 64, "\n")),
        row("lines of 20", Encodings, lines(&base64, 20, "\n")),
        row("lines of 8", Encodings, lines(&base64, 8, "\n")),
        row("lines of 5", Encodings, lines(&base64, 5, "\r\n")),
        row("lines of 4", Encodings, lines(&base64, 4, "\n")),
        row("escaped line breaks", Encodings, lines(&base64, 16, "\\n")),
        row("percent-encoded line breaks", Encodings, lines(&base64, 16, "%0A")),
        row(
            "escaped slashes",
            Encodings,
            STANDARD.encode(format!("???{TOKEN}???")).replace('/', "\\/"),
        ),
        row("percent-encoded padding", Encodings, STANDARD.encode(TOKEN).replace('=', "%3D")),
        row("hex", Encodings, hex::encode(TOKEN)),
        row("hex, upper case", Encodings, hex::encode_upper(TOKEN)),
        row(
            "hex in JSON",
            Encodings,
            format!("{{\"h\":\"{}\"}}", hex::encode(format!("a {TOKEN}"))),
        ),
        row("hex in lines", Encodings, lines(&hex::encode(TOKEN), 32, "\n")),
    ]
}

fn fields() -> Vec<Row> {
    use View::Fields;
    let (a, b) = TOKEN.split_at(20);
    let (b, c) = b.split_at(10);
    vec![
        row("a JSON array", Fields, format!("[\"{a}\", \"{b}\", \"{c}\"]")),
        row("a JSON array without spaces", Fields, format!("[\"{a}\",\"{b}\",\"{c}\"]")),
        row("a JSON object", Fields, format!("{{\"a\": \"{a}\", \"b\": \"{b}\", \"c\": \"{c}\"}}")),
        row("a query", Fields, format!("/?a={a}&b={b}&c={c}")),
        row("a form", Fields, format!("a={a}&bb={b}&ccc={c}")),
        row("segments of a path", Fields, format!("/v1/{a}/{b}/{c}")),
        row("cookies", Fields, format!("a={a}; b={b}; c={c}")),
    ]
}

fn finds(scanner: &Scanner2, body: &[u8]) -> bool {
    let found = pass(&scanner.0, Direction::Request, "", body, &[]);
    let cuts: Vec<usize> = (1..body.len()).collect();
    let cut = pass(&scanner.0, Direction::Request, "", body, &cuts);
    assert_eq!(found, cut, "{}", String::from_utf8_lossy(body));
    found.found.iter().any(|f| f.action == Action::Block)
}

struct Scanner2(bottle_scan::Profile);

#[test]
fn what_is_written_otherwise_is_found_and_missed_without_its_view() {
    let all = Scanner2(Scanner::new(&[]).profile_elsewhere(&Scan::default()).expect("profile"));
    let without = |view: View| {
        let scanner = Scanner::without(&[], view);
        Scanner2(scanner.profile_elsewhere(&Scan::default()).expect("profile"))
    };
    let views = [View::Escapes, View::Encodings, View::Fields].map(|view| (view, without(view)));
    let rows: Vec<Row> =
        [escapes(), invisible(), encoded(), fields()].into_iter().flatten().collect();
    let mut wrong = Vec::new();
    for Row { name, view, body } in &rows {
        let (_, without) = views.iter().find(|(v, _)| v == view).expect("a view");
        if !finds(&all, body) {
            wrong.push(format!("missed: {name}"));
        }
        if finds(without, body) {
            wrong.push(format!("found without its view: {name}"));
        }
    }
    println!("attacks on rules: {} rows", rows.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows.len() >= 60, "{}", rows.len());
}

#[test]
fn two_encodings_of_a_known_secret_are_found() {
    let profile = scanner().profile(&Scan::default()).expect("profile");
    let hex = hex::encode(SECRET);
    for (name, body) in [
        ("Base64 of Base64", STANDARD.encode(STANDARD.encode(SECRET))),
        ("Base64 of Base64 after a byte", STANDARD.encode(STANDARD.encode(format!("x{SECRET}")))),
        ("Base64 after two of Base64", STANDARD.encode(format!("ab{}", STANDARD.encode(SECRET)))),
        ("Base64 of base64url", STANDARD.encode(URL_SAFE.encode(SECRET))),
        ("base64url of Base64", URL_SAFE.encode(STANDARD.encode(SECRET))),
        ("Base64 of hex", STANDARD.encode(&hex)),
        ("Base64 of upper-case hex", STANDARD.encode(hex.to_uppercase())),
        ("hex of Base64", hex::encode(STANDARD.encode(SECRET))),
        ("quoted-printable", each(SECRET, |b| format!("={b:02X}"))),
        ("a soft line break", format!("{}=\r\n{}", &SECRET[..9], &SECRET[9..])),
        ("zero width spaces", spread(SECRET, "\u{200b}")),
        ("full width", shifted(SECRET, 0xfee0)),
        ("NUL between", spread(SECRET, "\0")),
    ] {
        let body = format!("{{\"a\": \"{body}\"}}");
        let found = pass(&profile, Direction::Request, "", body.as_bytes(), &[]);
        assert_eq!(found.rules(), ["bundle-secret"], "{name}: {body}");
        let cuts: Vec<usize> = (1..body.len()).collect();
        assert_eq!(found, pass(&profile, Direction::Request, "", body.as_bytes(), &cuts), "{name}");
    }
}

#[test]
fn a_token_in_a_header_name_is_found_in_lower_case() {
    let profile = Scanner::new(&[]).profile(&Scan::default()).expect("profile");
    let blocks = |found: Vec<bottle_scan::Finding>| found.iter().any(|f| f.action == Action::Block);
    for token in [TOKEN, "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", "AKIAOFSNBH7SFZFCN5KI"] {
        let name = format!("x-{}", token.to_lowercase());
        assert!(blocks(profile.text_any_case(Direction::Request, name.as_bytes())), "{name}");
        assert!(!blocks(profile.text(Direction::Request, name.as_bytes())), "{name}: the control");
    }
    for name in ["x-request-id", "sec-ch-ua-platform-version", "x-amz-content-sha256"] {
        assert!(profile.text_any_case(Direction::Request, name.as_bytes()).is_empty(), "{name}");
    }
}

#[test]
fn a_token_that_is_cut_over_headers_or_segments_is_found() {
    let profile = Scanner::new(&[]).profile(&Scan::default()).expect("profile");
    let (a, b) = TOKEN.split_at(3);
    let (b, c) = b.split_at(20);
    let parts = [a.as_bytes(), b.as_bytes(), c.as_bytes()];
    assert_eq!(profile.joined(Direction::Request, &parts).len(), 1);
    assert!(parts.iter().all(|part| profile.text(Direction::Request, part).is_empty()));
    let target = format!("/v1/{a}/{b}/{c}");
    assert_eq!(profile.target(Direction::Request, target.as_bytes()).len(), 1);
    let whole = [TOKEN.as_bytes(), b"x"];
    assert!(profile.joined(Direction::Request, &whole).is_empty(), "what one holds alone");
}

#[test]
fn what_is_only_suspected_blocks_where_it_has_no_business() {
    let scanner = Scanner::new(&[]);
    let own = scanner.profile(&Scan::default()).expect("profile");
    let elsewhere = scanner.profile_elsewhere(&Scan::default()).expect("profile");
    let warn = Scan { limit: Some(Action::Warn), ..Scan::default() };
    let warned = scanner.profile_elsewhere(&warn).expect("profile");
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI5MzQ1Njc4OTEifQ.Zk3x9Qv7LmN2pR8sT4uW6yA1bC5dE0fG";
    for text in [
        jwt,
        "password=4K3JyKBpyecI4eHYlDib",
        "postgres://admin:VdQ66wAzZMTxqq@db.example.net/x",
        "machine github.com login me password MjDIYAEVmVA6ZUfqAnvw",
    ] {
        for (profile, action) in
            [(&own, Action::Warn), (&elsewhere, Action::Block), (&warned, Action::Warn)]
        {
            let found = profile.text(Direction::Request, text.as_bytes());
            assert_eq!(found.iter().map(|f| f.action).collect::<Vec<_>>(), [action], "{text}");
            assert!(found.iter().all(|f| f.suspected), "{text}");
        }
    }
    let bearer = format!("Bearer {jwt}");
    let given = elsewhere.header(Direction::Request, "Authorization", bearer.as_bytes());
    assert!(!given.is_empty() && given.iter().all(|f| f.action == Action::Warn), "{given:?}");
    let rules = [("jwt".into(), Action::Block)].into();
    let explicit = scanner.profile_elsewhere(&Scan { rules, ..Scan::default() }).expect("profile");
    let given = explicit.header(Direction::Request, "Authorization", bearer.as_bytes());
    assert!(given.iter().any(|f| f.action == Action::Block), "the operator's word: {given:?}");
    let sent = elsewhere.header(Direction::Request, "x-note", bearer.as_bytes());
    assert!(sent.iter().any(|f| f.action == Action::Block), "{sent:?}");
}

#[test]
fn what_stands_behind_a_token_does_not_hide_it() {
    let profile = Scanner::new(&[]).profile(&Scan::default()).expect("profile");
    let token = "glpat-dxWmvpX8ME2k3YydVE2y";
    for behind in ["a".repeat(290), "-example-abcdefghijkl".into(), "xxxxxxxx".into()] {
        let text = format!("{token}{behind}");
        assert_eq!(profile.text(Direction::Request, text.as_bytes()).len(), 1, "{text}");
    }
}
