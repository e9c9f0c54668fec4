//! A token written in ways that a generator chose, in text that it chose, in pieces that it chose:
//! it is found, and how it is cut does not matter. What `fuzz/scan` does without an end, a little.

#![allow(clippy::expect_used)]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bottle_policy::{Action, Scan};
use bottle_scan::{Direction, Scanner};
use common::{Random, cuts, pass};

const TOKEN: &str = "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";

/// One character in one of the ways that stand for it.
fn character(random: &mut Random, b: u8) -> String {
    let plain = char::from(b);
    match random.below(16) {
        0 => format!("\\u{b:04x}"),
        1 => format!("\\u{b:04X}"),
        2 => format!("%{b:02x}"),
        3 => format!("&#{b};"),
        4 => format!("&#x{b:X};"),
        5 => format!("={b:02X}"),
        6 => format!("{plain}\u{200b}"),
        7 => format!("{plain}\u{ad}"),
        8 => format!("{plain}\u{301}"),
        9 => format!("{plain}\0"),
        10 => char::from_u32(0xfee0 + u32::from(b)).expect("a character").to_string(),
        11 => format!("\\{b:03o}"),
        _ => plain.to_string(),
    }
}

fn written(random: &mut Random) -> String {
    if random.below(3) > 0 {
        return TOKEN.bytes().map(|b| character(random, b)).collect();
    }
    let before = *random.pick(&["", " ", "t=", "is ", "the token: "]);
    let text = format!("{before}{TOKEN}{}", random.pick(&["", ".", " and more"]));
    let encoded = match random.below(3) {
        0 => STANDARD.encode(text),
        1 => URL_SAFE_NO_PAD.encode(text),
        _ => return hex::encode(text),
    };
    let (width, end) =
        (*random.pick(&[4, 5, 8, 19, 64, 76, 200]), *random.pick(&["\n", "\r\n", "\\n", "%0A"]));
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(width).filter_map(|l| std::str::from_utf8(l).ok()).collect();
    lines.join(end)
}

#[test]
fn a_token_is_found_however_it_is_written_and_cut() {
    let profile = Scanner::new(&[]).profile_elsewhere(&Scan::default()).expect("profile");
    let mut random = Random(23);
    let around =
        ["", " ", "\"", "\n", "x = ", "&a=", "\u{200b} ", "%20", "Привет ", "\\n", "ghp_ ", "\0\0"];
    let mut forms = Vec::new();
    for round in 0..4000 {
        let written = written(&mut random);
        let before: String = (0..3).map(|_| *random.pick(&around)).collect();
        let body = format!("{before}\"{written}\"{}", random.pick(&around));
        let whole = pass(&profile, Direction::Request, "", body.as_bytes(), &[]);
        let block = whole.found.iter().any(|f| f.action == Action::Block);
        assert!(block, "round {round}: {body:?}: {whole:?}");
        let cuts = cuts(&mut random, body.len());
        let cut = pass(&profile, Direction::Request, "", body.as_bytes(), &cuts);
        assert_eq!(whole, cut, "round {round}: {body:?} cut at {cuts:?}");
        forms.push(written);
    }
    forms.sort();
    forms.dedup();
    println!("{} ways to write a token", forms.len());
}

/// Bytes without a meaning, of the kinds that decoders look at.
#[test]
fn noise_is_decided_in_the_same_way_however_it_is_cut() {
    let profile = Scanner::new(&[]).profile(&Scan::default()).expect("profile");
    let mut random = Random(29);
    let pieces: [&[u8]; 28] = [
        b"%",
        b"\\",
        b"&",
        b"=",
        b"\0",
        b"u",
        b"x",
        b"#",
        b";",
        b"0",
        b"4",
        b"1",
        b"ghp_",
        b"Z2hw",
        b"X3",
        b"676870",
        b"5f",
        b"\r",
        b"\n",
        b"\xe2\x80\x8b",
        b"\xe2",
        b"\x80",
        b"\xf3\xa0\x81\xa7",
        b"\xef\xbd\x87",
        b"{",
        b"}",
        b"amp;",
        b"\", \"",
    ];
    for round in 0..20_000 {
        let body: Vec<u8> =
            (0..random.below(40)).flat_map(|_| random.pick(&pieces).iter().copied()).collect();
        let whole = pass(&profile, Direction::Request, "", &body, &[]);
        let cuts = cuts(&mut random, body.len());
        let cut = pass(&profile, Direction::Request, "", &body, &cuts);
        assert_eq!(whole, cut, "round {round}: {:?}", String::from_utf8_lossy(&body));
    }
}
