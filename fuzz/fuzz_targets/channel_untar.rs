//! A tar stream from a guest. Nothing may be written outside of the destination.
#![no_main]

use bottle_channel::untar::{Limits, extract_hostile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let inside = dir.path().join("in");
    std::fs::create_dir(&inside).expect("a directory");
    // Right checksums, or the parser would see little of the input.
    let mut tar = data.to_vec();
    for block in tar.chunks_exact_mut(512) {
        if block[156] & 0x80 != 0 || !block[..100].contains(&0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let _ = extract_hostile(&tar[..], &inside, Limits { entries: 50, bytes: 1 << 16 });
    let outside: Vec<_> = std::fs::read_dir(dir.path())
        .expect("a directory")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(outside, ["in"]);
});
