//! The head of a push. It must not depend on how the bytes are cut, must be bounded, and no byte
//! may be lost or invented. The same bytes are also read as a request during the initial clone:
//! only a client that asked for everything may be sent the pack of everything.
#![no_main]

use bottle_bundle::gate::commands::Id;
use bottle_bundle::gate::commands::{COMMANDS, Head, HeadReader};
use bottle_bundle::gate::first::{Answer, First};
use bottle_bundle::gate::repo::Seen;
use libfuzzer_sys::fuzz_target;

fn request(bytes: &[u8]) {
    static FIRST: std::sync::OnceLock<First> = std::sync::OnceLock::new();
    let first = FIRST.get_or_init(|| {
        let id = |digit: u8| Id::parse(&[digit; 40]).expect("an id");
        let refs =
            [("refs/heads/main".to_owned(), id(b'a')), ("refs/tags/v1".to_owned(), id(b'b'))]
                .into();
        let peeled = [("refs/tags/v1".to_owned(), id(b'a'))].into();
        First::new(Seen { refs, peeled, head: Some("refs/heads/main".to_owned()) }, "/none".into())
            .0
    });
    let wants = |digit: char| {
        bytes.windows(45).any(|w| w == format!("want {}", digit.to_string().repeat(40)).as_bytes())
    };
    match first.answer(bytes) {
        Some(Answer::Pack) => assert!(
            wants('a') && wants('b') && !bytes.windows(5).any(|w| w == b"have " || w == b"deepe")
        ),
        Some(Answer::Refs(out)) => assert!(out.ends_with(b"0000") && out.len() < 400),
        None => {}
    }
}

/// Reads `bytes` in pieces of `size`. Returns head and rest, `None` for an incomplete head, or the
/// rule that refuses it.
fn read(bytes: &[u8], size: usize) -> Result<Option<(Head, Vec<u8>)>, &'static str> {
    let mut reader = HeadReader::default();
    let mut pieces = bytes.chunks(size);
    while let Some(piece) = pieces.next() {
        match reader.push(piece) {
            Ok(Some((head, mut rest))) => {
                pieces.for_each(|p| rest.extend_from_slice(p));
                return Ok(Some((head, rest)));
            }
            Ok(None) => {}
            Err(refusal) => return Err(refusal.rule.code()),
        }
    }
    Ok(None)
}

fuzz_target!(|bytes: &[u8]| {
    request(bytes);
    let whole = read(bytes, bytes.len().max(1));
    for size in [1, 7] {
        assert_eq!(read(bytes, size), whole, "pieces of {size}");
    }
    let Ok(Some((head, rest))) = whole else { return };
    assert!(bytes.ends_with(&rest) && head.commands.len() <= COMMANDS);
    let read = &bytes[..bytes.len() - rest.len()];
    assert!(read.ends_with(b"0000"));
    for (n, command) in head.commands.iter().enumerate() {
        assert!(!(command.old.is_zero() && command.new.is_zero()) && !command.name.is_empty());
        assert!(head.commands[..n].iter().all(|c| c.name != command.name), "twice");
        let line = format!("{} {} {}", command.old, command.new, command.name);
        assert!(read.windows(line.len()).any(|w| w == line.as_bytes()), "{line}");
    }
});
