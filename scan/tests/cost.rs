//! What scanning costs in memory: counted by the allocator.

#![allow(clippy::expect_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bottle_policy::Scan;
use bottle_scan::Direction;
use bytes::Bytes;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), SeqCst);
        COUNT.fetch_add(1, SeqCst);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> usize {
    LIVE.load(SeqCst)
}

/// One test, as what another would allocate meanwhile would be counted.
#[test]
fn a_scanner_and_its_streams_are_small() {
    let before = live();
    let scanner = common::scanner();
    let profile = scanner.profile(&Scan { responses: true, ..Scan::default() }).expect("profile");
    let fresh = live() - before;
    assert!(fresh < 1 << 20, "a scanner takes {fresh} bytes");

    // With every regex compiled, as all rules' candidates have come by.
    let rules = include_str!("../src/rules.toml").replace("<>", "").replace('\'', "\n");
    for direction in [Direction::Request, Direction::Response] {
        assert!(profile.text(direction, rules.as_bytes()).len() > 3);
    }
    let used = live() - before;
    println!("scanner: {fresh} bytes fresh, {used} used");
    assert!(used < 4 << 20, "a scanner takes {used} bytes once used");

    let body = Bytes::from_static(br#"{"model":"x","messages":[{"role":"user","content":"hello\n\"you\" there, what is 100% of 7?"}]}"#);
    let (mut out, mut found) = (Vec::with_capacity(4), Vec::new());
    let (count, held) = (COUNT.load(SeqCst), live());
    let mut stream = profile.stream(Direction::Request, "").expect("stream");
    stream.push(body.clone(), &mut out, &mut found);
    let stream_live = live() - held;
    stream.finish(&mut out, &mut found);
    let count = COUNT.load(SeqCst) - count;
    assert!(
        count <= 1 && stream_live < 100,
        "a small body takes {count} allocations, {stream_live} bytes"
    );

    let (count, value) = (COUNT.load(SeqCst), b"Mozilla/5.0 (X11; Linux x86_64)");
    assert!(profile.text(Direction::Request, value).is_empty());
    assert_eq!(COUNT.load(SeqCst), count, "a header's value takes none");

    for coding in ["gzip", "deflate", "br", "zstd"] {
        let held = live();
        let mut stream = profile.stream(Direction::Request, coding).expect("stream");
        stream.push(Bytes::from_static(&[0x1f]), &mut out, &mut found);
        let size = live() - held;
        println!("{coding}: {size} bytes");
        assert!(size < 128 << 10, "{coding} takes {size} bytes");
    }
}
