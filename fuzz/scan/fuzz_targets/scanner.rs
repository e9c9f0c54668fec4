//! Arbitrary bodies in arbitrary pieces: how a body is cut changes neither what is found nor what
//! goes on, and nothing panics.
#![no_main]

use std::io::Write;
use std::sync::{Arc, LazyLock};

use bottle_policy::{Action, Scan, Secret};
use bottle_scan::{Direction, Finding, Profile, Scanner};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

static PROFILES: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    let secret =
        |name: &str, value: &str| (name.parse().expect("name"), Secret::new(value.to_owned()));
    let scanner: Arc<Scanner> = Scanner::new(&[
        secret("A", "quokka-Vault+7/lemon"),
        secret("B", "robot:p%41ss&w\\ord 9"),
        secret("C", "ab1ab1ab"),
    ]);
    [None, Some(Action::Redact), Some(Action::Warn), Some(Action::Off)]
        .into_iter()
        .map(|limit| {
            scanner.profile(&Scan { limit, responses: true, ..Scan::default() }).expect("profile")
        })
        .collect()
});

/// Content-Encoding, and whether the bytes are encoded first (else they are sent as they are).
const CODINGS: [(&str, bool); 12] = [
    ("", false),
    ("", false),
    ("", false),
    ("gzip", true),
    ("deflate", true),
    ("zstd", true),
    ("zstd, gzip", true),
    ("gzip", false),
    ("deflate", false),
    ("br", false),
    ("zstd", false),
    ("br, zstd", false),
];

fn encode(coding: &str, text: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::fast();
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(text).expect("gzip");
            encoder.finish().expect("gzip")
        }
        "deflate" => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(text).expect("deflate");
            encoder.finish().expect("deflate")
        }
        "zstd, gzip" => encode("gzip", &encode("zstd", text)),
        _ => ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest),
    }
}

struct Passed {
    out: Vec<u8>,
    found: Vec<Finding>,
}

impl Passed {
    fn blocked(&self) -> bool {
        self.found.iter().any(|f| f.action == Action::Block)
    }
}

fn pass(
    profile: &Profile,
    direction: Direction,
    coding: &str,
    body: &Bytes,
    steps: &[u8],
) -> Passed {
    let mut stream = profile.stream(direction, coding).expect("a known coding");
    let (mut out, mut found) = (Vec::new(), Vec::new());
    let mut from = 0;
    let mut steps = steps.iter().cycle();
    while from < body.len() {
        let step = match steps.next() {
            None => body.len(),
            Some(step) if *step >= 0xf0 => 1000 * usize::from(*step - 0xef),
            Some(step) => 1 + usize::from(*step % 16),
        };
        let to = (from + step).min(body.len());
        stream.push(body.slice(from..to), &mut out, &mut found);
        from = to;
        let gone: usize = out.iter().map(Bytes::len).sum();
        assert!(gone <= from, "more went on than came");
        let over = found.iter().any(|f| f.action == Action::Block);
        assert!(
            over || gone + 9000 > from || !coding.is_empty() || is_file(body),
            "{} bytes are held",
            from - gone
        );
    }
    stream.finish(&mut out, &mut found);
    Passed { out: out.concat(), found }
}

/// Whether the body may be taken for a compressed file, which is held as a coded body is.
fn is_file(body: &[u8]) -> bool {
    body.first().is_some_and(|b| [0x1f, 0x78, 0x28].contains(b))
}

fuzz_target!(|input: &[u8]| {
    let Some(([how, coding, a, b, c], text)) = input.split_first_chunk() else { return };
    let profile = &PROFILES[usize::from(how % 4)];
    let direction = if how & 4 == 0 { Direction::Request } else { Direction::Response };
    let (coding, encoded) = CODINGS[usize::from(*coding) % CODINGS.len()];
    let text = if how & 8 == 0 { text.to_vec() } else { text.repeat(1 + usize::from(how >> 4)) };
    let body = Bytes::from(if encoded { encode(coding, &text) } else { text.clone() });

    let whole = pass(profile, direction, coding, &body, &[]);
    let cut = pass(profile, direction, coding, &body, &[*a, *b, *c]);
    let bytes = pass(profile, direction, coding, &body, &[0]);
    for other in [&cut, &bytes] {
        assert_eq!(whole.blocked(), other.blocked(), "{:?} {:?}", whole.found, other.found);
        if coding.is_empty() && !is_file(&body) {
            assert_eq!(whole.found, other.found);
            assert_eq!(whole.out, other.out);
        } else if !whole.blocked() {
            let sorted = |passed: &Passed| {
                let mut found: Vec<String> =
                    passed.found.iter().map(|f| format!("{f:?}")).collect();
                found.sort();
                found
            };
            assert_eq!(sorted(&whole), sorted(other));
            assert_eq!(whole.out, other.out);
        }
    }
    for passed in [&whole, &cut, &bytes] {
        if !passed.blocked() {
            assert_eq!(passed.out.len(), body.len(), "nothing is lost");
        }
        assert!(
            passed.out.iter().zip(&body[..]).all(|(a, b)| a == b || *a == b'*'),
            "only stars are written"
        );
        assert!(coding.is_empty() || passed.out == body[..passed.out.len()]);
        assert!(
            passed.found.iter().rev().skip(1).all(|f| f.action != Action::Block),
            "nothing comes after a block"
        );
    }
    if encoded && !whole.blocked() {
        // The text is found in what the coding holds as if it had none.
        let plain = pass(profile, direction, "", &Bytes::from(text), &[]);
        assert!(
            !plain.blocked() || plain.found.iter().any(|f| f.rule.starts_with("coding")),
            "{:?} got past",
            plain.found
        );
    }
    let _ = profile.text(direction, &body);
});
