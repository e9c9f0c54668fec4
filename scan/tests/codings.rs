//! Bodies with a coding: the text in them is looked at, and the bytes go on as they were.

#![allow(clippy::expect_used)]

mod common;

use std::io::Write;

use bottle_policy::Action;
use bottle_scan::Direction;
use bytes::Bytes;
use common::{Random, SECRET, cuts, pass, profile};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).expect("gzip");
    encoder.finish().expect("gzip")
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).expect("zlib");
    encoder.finish().expect("zlib")
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).expect("deflate");
    encoder.finish().expect("deflate")
}

fn zstd(text: &[u8]) -> Vec<u8> {
    compress_to_vec(text, CompressionLevel::Fastest)
}

/// Brotli without compressing: a window of 64 KiB, and meta-blocks of at most 64 KiB that are not
/// compressed (RFC 7932, 9.2).
fn brotli(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, block) in text.chunks(1 << 16).enumerate() {
        // WBITS 0; then ISLAST 0, MNIBBLES 4 (00), MLEN - 1, ISUNCOMPRESSED 1.
        let bits = ((block.len() as u64 - 1) << 3) | (1 << 19);
        let (bits, len) = if i == 0 { (bits << 1, 3) } else { (bits, 3) };
        out.extend(&bits.to_le_bytes()[..len]);
        out.extend(block);
    }
    out.push(if text.is_empty() { 6 } else { 3 });
    out
}

type Encode = fn(&[u8]) -> Vec<u8>;
const CODINGS: [(&str, Encode); 7] = [
    ("gzip", gzip),
    ("x-gzip", gzip),
    ("deflate", zlib),
    ("DEFLATE", deflate),
    ("br", brotli),
    ("zstd", zstd),
    ("zstd, gzip", |text| gzip(&zstd(text))),
];

fn words(random: &mut Random, len: usize) -> Vec<u8> {
    let words = ["fn ", "let ", "x", "= ", "scan(", ");\n", "the ", "a%20b", "\\n", "7", "{", "}"];
    std::iter::repeat_with(|| *random.pick(&words)).flat_map(str::bytes).take(len).collect()
}

#[test]
fn a_clean_body_goes_on_as_it_was() {
    let (profile, mut random) = (profile(), Random(11));
    for len in [0, 1, 100, 5000, 140_000] {
        for (coding, encode) in CODINGS {
            let body = encode(&words(&mut random, len));
            let cuts = cuts(&mut random, body.len());
            for cuts in [&[][..], &cuts] {
                let passed = pass(&profile, Direction::Request, coding, &body, cuts);
                assert!(
                    passed.out == body && passed.found.is_empty(),
                    "{coding} {len} {:?}",
                    passed.found
                );
            }
        }
    }
}

#[test]
fn a_secret_in_a_coded_body_is_blocked_at_its_place_in_the_text() {
    let (profile, mut random) = (profile(), Random(12));
    for before in [0, 10, 3000, 70_000] {
        for (coding, encode) in CODINGS {
            for direction in [Direction::Request, Direction::Response] {
                let mut text = words(&mut random, before);
                text.last_mut().into_iter().for_each(|last| *last = b' '); // no escape
                let text = [&text[..], SECRET.as_bytes(), &words(&mut random, 3000)].concat();
                let body = encode(&text);
                let cuts = cuts(&mut random, body.len());
                for cuts in [&[][..], &cuts] {
                    let passed = pass(&profile, direction, coding, &body, cuts);
                    let found = passed.found.last().expect("found");
                    // What is not compressed has the secret in the body itself as well.
                    assert_eq!(
                        (&*found.rule, found.action),
                        ("bundle-secret", Action::Block),
                        "{coding}"
                    );
                    assert!(
                        found.offset == before as u64 || ["br", "zstd"].contains(&coding),
                        "{coding} {} {before}",
                        found.offset
                    );
                    assert!(
                        passed.out.len() < body.len() && body.starts_with(&passed.out),
                        "{coding}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_compressed_file_is_looked_into() {
    let profile = profile();
    let text = format!("{{\"key\": \"{SECRET}\"}}").repeat(3);
    for encode in [gzip as Encode, zlib, zstd] {
        let body = encode(text.as_bytes());
        for cuts in [vec![], (1..body.len()).collect()] {
            assert_eq!(
                pass(&profile, Direction::Request, "", &body, &cuts).rules(),
                ["bundle-secret"]
            );
        }
        let broken = &body[..body.len() / 3];
        let passed = pass(&profile, Direction::Request, "", broken, &[5]);
        assert!(passed.out == broken && passed.found.is_empty(), "half a file is just content");
    }
    let text = b"x\x9cis no zlib";
    assert_eq!(pass(&profile, Direction::Request, "", text, &[1]).out, text);
}

#[test]
fn what_cannot_be_decoded_is_blocked() {
    let (profile, mut random) = (profile(), Random(13));
    let text = words(&mut random, 5000);
    for (coding, encode) in CODINGS {
        let body = encode(&text);
        let check = |body: &[u8], why: &str| {
            let bytes: Vec<usize> = (1..body.len()).collect();
            for cuts in [&[][..], &bytes] {
                let passed = pass(&profile, Direction::Request, coding, body, cuts);
                assert_eq!(passed.rules(), ["coding"], "{coding} {why}");
                let all = passed.out.len() == body.len() && why != "cut short";
                assert!(passed.found[0].action == Action::Block && !all, "{coding} {why}");
            }
        };
        check(&body[..body.len() - 1], "cut short");
        check(&[&body[..], b"x"].concat(), "with more after its end");
        check(&[&body[..1], &[0xff; 20]].concat(), "overwritten");
        check(b"plain text, not coded at all", "not coded");
    }
    let mut body = gzip(&text);
    let sum = body.len() - 6;
    body[sum] ^= 1;
    assert_eq!(
        pass(&profile, Direction::Request, "gzip", &body, &[]).rules(),
        ["coding"],
        "a wrong checksum"
    );
}

#[test]
fn members_and_frames_that_follow_are_decoded() {
    let profile = profile();
    for (coding, encode) in [("gzip", gzip as Encode), ("zstd", zstd)] {
        let body = [encode(b"first"), encode(b"second"), encode(SECRET.as_bytes())].concat();
        let passed = pass(&profile, Direction::Request, coding, &body, &[]);
        assert_eq!(
            (passed.rules(), passed.found[0].offset),
            (vec!["bundle-secret"], 11),
            "{coding}"
        );
        let split = [encode(&SECRET.as_bytes()[..9]), encode(&SECRET.as_bytes()[9..])].concat();
        assert_eq!(
            pass(&profile, Direction::Request, coding, &split, &[7]).rules(),
            ["bundle-secret"],
            "{coding}: over both"
        );
    }
}

#[test]
fn the_parts_of_gzips_header_are_passed_over() {
    let (profile, body) = (profile(), gzip(b"text"));
    let mut full = vec![0x1f, 0x8b, 8, 2 | 4 | 8 | 16];
    full.extend(&body[4..10]);
    full.extend(b"\x03\x00abcname\x00comment\x00\x12\x34");
    full.extend(&body[10..]);
    let bytes: Vec<usize> = (1..full.len()).collect();
    assert_eq!(pass(&profile, Direction::Request, "gzip", &full, &bytes).out, full);
    let named = GzEncoderWithName::encode(SECRET);
    assert_eq!(
        pass(&profile, Direction::Request, "gzip", &named, &[]).rules(),
        ["bundle-secret"],
        "the name is sent, too"
    );
}

struct GzEncoderWithName;

impl GzEncoderWithName {
    fn encode(name: &str) -> Vec<u8> {
        let mut encoder =
            flate2::GzBuilder::new().filename(name).write(Vec::new(), Compression::default());
        encoder.write_all(b"text").expect("gzip");
        encoder.finish().expect("gzip")
    }
}

#[test]
fn a_bomb_is_blocked_before_it_grows() {
    let profile = profile();
    let bomb = gzip(&vec![0; 3 << 20]);
    for (coding, body) in
        [("gzip", bomb.clone()), ("deflate", zlib(&vec![0; 3 << 20])), ("gzip, gzip", gzip(&bomb))]
    {
        for step in [100, 10_000] {
            let cuts: Vec<usize> = (1..body.len()).step_by(step).collect();
            assert_eq!(
                pass(&profile, Direction::Request, coding, &body, &cuts).rules(),
                ["coding-bomb"],
                "{coding}"
            );
        }
    }
    // 128 KiB of one byte in a block of four.
    let mut body = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x38];
    for _ in 0..1000 {
        body.extend([2, 0, 16, b'a']);
    }
    assert_eq!(pass(&profile, Direction::Request, "zstd", &body, &[]).rules(), ["coding-bomb"]);
    let small = gzip(&vec![b'a'; 1 << 20]);
    assert_eq!(pass(&profile, Direction::Request, "gzip", &small, &[]).out, small);
}

#[test]
fn a_window_that_is_too_large_is_refused() {
    let frame = |window: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0, window], &[1, 0, 0][..]].concat();
    assert!(pass(&profile(), Direction::Request, "zstd", &frame(13 << 3), &[]).found.is_empty());
    assert_eq!(
        pass(&profile(), Direction::Request, "zstd", &frame((13 << 3) + 1), &[]).rules(),
        ["coding"]
    );
}

/// The decoder's buffer is emptied now and then; what later blocks refer to must still be there.
#[test]
fn a_zstd_body_of_many_windows_is_decoded_to_its_end() {
    let (profile, mut random) = (profile(), Random(14));
    let part = words(&mut random, 100_000);
    let text: Vec<u8> = (0..30).flat_map(|_| part.iter().copied()).chain(SECRET.bytes()).collect();
    let passed = pass(&profile, Direction::Request, "zstd", &zstd(&text), &[1000]);
    assert_eq!((passed.rules(), passed.found[0].offset), (vec!["bundle-secret"], 3_000_000));
}

#[test]
fn flushed_messages_go_on_at_once() {
    let profile = profile();
    let messages = ["data: one\n\n", "data: two, and three\n\n", "data: password\n\n"];
    let mut stream = profile.stream(Direction::Response, "gzip").expect("stream");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for message in messages {
        encoder.write_all(message.as_bytes()).expect("gzip");
        encoder.flush().expect("gzip");
        let piece = Bytes::from(std::mem::take(encoder.get_mut()));
        let (mut out, mut found) = (Vec::new(), Vec::new());
        stream.push(piece.clone(), &mut out, &mut found);
        assert!(out == [piece] && found.is_empty() && stream.is_idle());
    }
    // A zstd frame whose blocks (here not compressed) come one by one.
    let mut stream = profile.stream(Direction::Response, "zstd").expect("stream");
    let (mut out, mut found) = (Vec::new(), Vec::new());
    stream.push(Bytes::from_static(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x38]), &mut out, &mut found);
    for message in messages {
        let size = u32::try_from(message.len() << 3).expect("size").to_le_bytes();
        let block = Bytes::from([&size[..3], message.as_bytes()].concat());
        out.clear();
        stream.push(block.clone(), &mut out, &mut found);
        assert!(out == [block] && found.is_empty());
    }
    // Half a block could be guessed at by whoever reads it; it waits.
    out.clear();
    stream.push(Bytes::from_static(&[0x50, 0, 0, b'h', b'a', b'l', b'f']), &mut out, &mut found);
    assert!(out.is_empty() && !stream.is_idle());
}

#[test]
fn codings_that_are_not_known_are_refused() {
    let profile = profile();
    for coding in ["compress", "gzip, x", "dcb", "gzip, gzip, gzip"] {
        assert!(profile.stream(Direction::Request, coding).is_err(), "{coding}");
    }
    for coding in ["", "identity", " gzip , identity", "aws-chunked", "aws-chunked,GZIP"] {
        assert!(profile.stream(Direction::Request, coding).is_ok(), "{coding}");
    }
}

#[test]
fn what_a_brotli_window_holds_is_looked_at_before_it_goes_on() {
    // The first piece decodes to far more than one buffer; what comes after it must not wait for
    // the end to be seen.
    let profile = profile();
    let filler = vec![b' '; 256 << 10];
    let first = brotli_stored(&filler, true, false);
    let second = brotli_stored(SECRET.as_bytes(), false, false);
    let third = brotli_stored(&filler, false, true);
    let mut stream = profile.stream(Direction::Request, "br").expect("a stream");
    let (mut out, mut found) = (Vec::new(), Vec::new());
    for piece in [&first, &second] {
        stream.push(piece.clone().into(), &mut out, &mut found);
    }
    assert_eq!(
        found.iter().map(|f| &*f.rule).collect::<Vec<_>>(),
        ["bundle-secret"],
        "before the end"
    );
    stream.push(third.into(), &mut out, &mut found);
    let sent: usize = out.iter().map(bytes::Bytes::len).sum();
    assert!(sent <= first.len(), "{sent} of {}", first.len());
}

/// Meta-blocks that are not compressed (RFC 7932, 9.2); the stream's header stands before the
/// first, of 24-bit windows.
fn brotli_stored(data: &[u8], first: bool, last: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, block) in data.chunks(1 << 16).enumerate() {
        // ISLAST 0, MNIBBLES 4, MLEN - 1, ISUNCOMPRESSED 1, in bits from the lowest up.
        let bits = ((u32::try_from(block.len()).expect("a block") - 1) << 3) | (1 << 19);
        // WBITS 24 in front: a window of 16 MiB, of which nothing is given out until it is full or
        // asked for.
        let bits = if first && n == 0 { (bits << 4) | 15 } else { bits };
        out.extend(&bits.to_le_bytes()[..3]);
        out.extend(block);
    }
    if last {
        out.push(3);
    }
    out
}
