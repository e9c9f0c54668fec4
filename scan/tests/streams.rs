//! Bodies without a coding: however a body is cut, the same is found and the same goes on.

#![allow(clippy::expect_used)]

mod common;

use bottle_policy::{Action, Scan};
use bottle_scan::{Direction, Profile};
use bytes::Bytes;
use common::{BASIC, Passed, Random, SECRET, cuts, pass, profile, scanner};

fn redacting() -> Profile {
    scanner()
        .profile(&Scan {
            limit: Some(Action::Redact),
            rules: [("jwt".to_owned(), Action::Redact)].into(),
            responses: true,
        })
        .expect("profile")
}

/// A text of pieces that are found, that are nearly found, and of others.
fn text(random: &mut Random) -> Vec<u8> {
    let token = "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";
    let escaped = SECRET.bytes().map(|b| format!("%{b:02X}")).collect::<Vec<_>>().concat();
    let base64 =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("x{SECRET}yz"));
    let pieces = [
        token,
        token,
        SECRET,
        BASIC,
        &escaped,
        &base64,
        "ghp_",
        "quok",
        "quokka-Va",
        "\\",
        "%",
        "&",
        "%7",
        "\\u00",
        "&#",
        "\\u0071uokka",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJlLXZlcnkgbG9uZw",
        "eyJhbGci",
        "\\u0067hp_",
        "gh%70_",
        "zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17",
        "zQWBuTSOoRi4A9spHcVY5n\\u0063nsDkxkJ0mLq17",
        "Z2hwX3pRV0J1VFNPb1JpNEE5c3BIY1ZZNW5jbnNEa3hrSjBtTHExNw",
        "6768705f7a51574275",
        "Z2hw",
        "\u{200b}",
        "\u{e0067}",
        "\u{ff47}",
        "\0",
        "=67",
        "=\r\n",
        "AccountKey=",
        "\", \"",
        "\":\"",
        "&b=",
        "ghp_zQWBuTSOoRi4A9spHcVY",
        "5ncnsDkxkJ0mLq17",
        "AIza",
        "AIzaSyB0123456789abcdefghijklmnopqrstuv",
        "-----BEGIN RSA PRIVATE KEY-----",
        "-----BEGIN ",
        "password=",
        "password=k9Jq2mXv7Lw4RtZ8bN3c",
        "ignore all previous ",
        "instructions",
        " ",
        "\n",
        "\\n",
        "a",
        "0",
        "sk-",
        "sk-ant-",
        ".",
        "cXVva2thLV",
        "71756f6b",
        "GEZDGNBV",
        "SK8eb7e2f8ac090f673049b7f77030e295",
        "SK",
    ];
    (0..random.below(12)).flat_map(|_| random.pick(&pieces).bytes()).collect()
}

#[test]
fn how_a_body_is_cut_does_not_matter() {
    let mut random = Random(7);
    let (mut blocked, mut found) = (0, 0);
    for profile in [profile(), redacting()] {
        for round in 0..6000 {
            let body = text(&mut random);
            let direction = *random.pick(&[Direction::Request, Direction::Response]);
            let whole = pass(&profile, direction, "", &body, &[]);
            let cuts = cuts(&mut random, body.len());
            let cut = pass(&profile, direction, "", &body, &cuts);
            assert_eq!(
                whole,
                cut,
                "round {round}: {:?} cut at {cuts:?}",
                String::from_utf8_lossy(&body)
            );
            let block = whole.found.last().is_some_and(|f| f.action == Action::Block);
            assert!(whole.out.len() == body.len() || (block && whole.out.len() < body.len()));
            let changed = whole.out.iter().zip(&body).any(|(a, b)| a != b && *a != b'*');
            assert!(!changed, "only stars are written");
            blocked += usize::from(block);
            found += whole.found.len();
        }
    }
    assert!(blocked > 1000 && found > 6000, "{blocked} {found}: else this shows nothing");
}

#[test]
fn a_blocked_token_does_not_leave() {
    let token = "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";
    let body = format!("token: {token} and more");
    for cut in 0..body.len() {
        let Passed { out, found } =
            pass(&profile(), Direction::Request, "", body.as_bytes(), &[cut]);
        assert_eq!((found.len(), found[0].action, found[0].offset), (1, Action::Block, 7));
        assert_eq!(out, b"token: ghp_");
    }
}

#[test]
fn redacting_keeps_the_length_and_all_else() {
    let token = "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";
    let body = format!("a {token} b {token}\n");
    let stars = format!("a ghp_{0} b ghp_{0}\n", "*".repeat(36));
    for cut in 0..body.len() {
        let Passed { out, found } =
            pass(&redacting(), Direction::Request, "", body.as_bytes(), &[cut]);
        assert_eq!(found.iter().map(|f| f.action).collect::<Vec<_>>(), [Action::Redact; 2]);
        assert_eq!(String::from_utf8_lossy(&out), stars);
    }
}

#[test]
fn a_bundles_secret_is_overwritten_in_a_response() {
    let body = format!("you sent {SECRET}, did you not");
    for cut in 0..body.len() {
        let Passed { out, found } =
            pass(&profile(), Direction::Response, "", body.as_bytes(), &[cut]);
        assert_eq!(
            String::from_utf8_lossy(&out),
            format!("you sent quo{}, did you not", "*".repeat(SECRET.len() - 3))
        );
        assert_eq!(found[0].secret.as_ref().map(|name| name.as_str()), Some("QUOKKA"));
    }
}

#[test]
fn at_most_three_bytes_of_a_secret_leave_before_it_is_whole() {
    let mut stream = profile().stream(Direction::Request, "").expect("stream");
    let (mut out, mut found) = (Vec::new(), Vec::new());
    for byte in SECRET.as_bytes() {
        stream.push(Bytes::copy_from_slice(&[*byte]), &mut out, &mut found);
    }
    assert_eq!((out.concat(), found.len()), (SECRET.as_bytes()[..3].to_vec(), 1));
}

#[test]
fn what_only_began_like_a_secret_goes_on_with_the_byte_that_differs() {
    let mut stream = profile().stream(Direction::Request, "").expect("stream");
    let (mut out, mut found) = (Vec::new(), Vec::new());
    stream.push(Bytes::from_static(b"the quokka-Vaul"), &mut out, &mut found);
    assert_eq!(out.concat(), b"the quo");
    assert!(!stream.is_idle());
    stream.push(Bytes::from_static(b"s"), &mut out, &mut found);
    assert_eq!(out.concat(), b"the quokka-Vauls");
    assert!(stream.is_idle() && found.is_empty());
}

#[test]
fn ordinary_messages_are_not_held() {
    let messages = [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"task-list","password":null}}"#,
        "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"sk\"}}\n\n",
        "GET /a/b?c=d%20e&f HTTP/1.1\r\n",
        "let secret = read_secret(&path)?;\n\t// eyJ\n",
        "\u{0}\u{0}\u{0}\u{0}\u{5}\n\u{3}abc",
        "password=k9Jq2mXv7Lw4RtZ8bN3c",
        "export TOKEN=",
        "ghp_",
        "a\\nb\\",
        "100%",
    ];
    let mut stream = profile().stream(Direction::Request, "").expect("stream");
    for message in messages {
        let (mut out, mut found) = (Vec::new(), Vec::new());
        stream.push(Bytes::from_static(message.as_bytes()), &mut out, &mut found);
        assert_eq!(out.concat(), message.as_bytes(), "held");
        assert!(
            stream.is_idle() && !found.iter().any(|f| f.action > Action::Warn),
            "{message:?} {found:?}"
        );
    }
}

#[test]
fn a_body_that_nothing_is_found_in_is_not_copied() {
    let body = Bytes::from("nothing to see here, ".repeat(100));
    let (mut out, mut found) = (Vec::new(), Vec::new());
    let mut stream = profile().stream(Direction::Request, "").expect("stream");
    stream.push(body.clone(), &mut out, &mut found);
    assert_eq!((out.len(), out[0].as_ptr()), (1, body.as_ptr()));
}

#[test]
fn what_is_held_is_bounded() {
    // The beginnings of all rules' candidates, and of secrets, each going on for ever.
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    for start in [
        "sk-",
        "ghs_",
        "eyJh",
        "-----BEGIN ",
        "hvs.",
        "AIza",
        "xoxb-",
        "\"password\"",
        "pypi-AgEI",
        "quokka-V",
    ] {
        bodies.push([start.as_bytes(), &[b'a'; 40_000]].concat());
        bodies.push(start.repeat(40_000 / start.len()).into_bytes());
    }
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, SECRET);
    bodies.push(base64.bytes().flat_map(|b| [&[b][..], &[b' '; 15]].concat()).collect());
    bodies.push(base64.bytes().take(6).chain([b'\n'; 40_000]).collect());
    bodies.push([b"quo\\".as_slice(), &[b'\\'; 40_000]].concat());
    let mut most = 0;
    for profile in [profile(), redacting()] {
        for body in &bodies {
            let mut stream = profile.stream(Direction::Request, "").expect("stream");
            let (mut out, mut found) = (Vec::new(), Vec::new());
            let (mut sent, mut gone) = (0, 0);
            for piece in body.chunks(97) {
                stream.push(Bytes::copy_from_slice(piece), &mut out, &mut found);
                sent += piece.len();
                gone += out.drain(..).map(|b: Bytes| b.len()).sum::<usize>();
                most = most.max(sent - gone);
                assert!(sent - gone <= 8192 + 97, "{} held", sent - gone);
            }
        }
    }
    assert!(most > 100, "something was held");
}
