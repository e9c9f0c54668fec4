//! The whole head of a push: it is the same however it arrives, bounded, and nothing of it is lost or made up.
#![no_main]

use bottle_bundle::gate::commands::{COMMANDS, Head, HeadReader};
use libfuzzer_sys::fuzz_target;

/// What becomes of `bytes` in pieces of `size`: head and rest, `None` for an unfinished head, or the refusing rule.
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
