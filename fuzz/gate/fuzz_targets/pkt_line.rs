//! The whole head of a push: it is parsed alike however it arrives, it is bounded, and nothing of it
//! is lost or invented. And the same bytes as a request during the initial clone: a client that is
//! sent the pack of everything has asked for everything.
#![no_main]

use bottle_bundle::git_gate::fetch::initial_clone::{CloneReply, InitialClone};
use bottle_bundle::git_gate::fetch::upstream_refs::UpstreamRefs;
use bottle_bundle::git_gate::object_id::ObjectId;
use bottle_bundle::git_gate::push::head::{MAX_REF_UPDATES, PushHead, PushHeadReader};
use libfuzzer_sys::fuzz_target;

fn request(bytes: &[u8]) {
    static FIRST: std::sync::OnceLock<InitialClone> = std::sync::OnceLock::new();
    let first = FIRST.get_or_init(|| {
        let id = |digit: u8| ObjectId::parse(&[digit; 40]).expect("an id");
        let refs =
            [("refs/heads/main".to_owned(), id(b'a')), ("refs/tags/v1".to_owned(), id(b'b'))]
                .into();
        let peeled = [("refs/tags/v1".to_owned(), id(b'a'))].into();
        InitialClone::new(
            UpstreamRefs { refs, peeled, head: Some("refs/heads/main".to_owned()) },
            "/none".into(),
        )
        .0
    });
    let wants = |digit: char| {
        bytes.windows(45).any(|w| w == format!("want {}", digit.to_string().repeat(40)).as_bytes())
    };
    match first.reply(bytes) {
        Some(CloneReply::Pack) => assert!(
            wants('a') && wants('b') && !bytes.windows(5).any(|w| w == b"have " || w == b"deepe")
        ),
        Some(CloneReply::Refs(out)) => assert!(out.ends_with(b"0000") && out.len() < 400),
        None => {}
    }
}

/// What becomes of `bytes` in pieces of `size`: head and rest, `None` for an unfinished head, or
/// the refusing rule.
fn read(bytes: &[u8], size: usize) -> Result<Option<(PushHead, Vec<u8>)>, &'static str> {
    let mut reader = PushHeadReader::default();
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
    assert!(bytes.ends_with(&rest) && head.updates.len() <= MAX_REF_UPDATES);
    let read = &bytes[..bytes.len() - rest.len()];
    assert!(read.ends_with(b"0000"));
    for (n, command) in head.updates.iter().enumerate() {
        assert!(!(command.old.is_zero() && command.new.is_zero()) && !command.name.is_empty());
        assert!(head.updates[..n].iter().all(|c| c.name != command.name), "twice");
        let line = format!("{} {} {}", command.old, command.new, command.name);
        assert!(read.windows(line.len()).any(|w| w == line.as_bytes()), "{line}");
    }
});
