//! WebSocket frames, however they are cut: the verdict is the same, and what goes on is what came.
#![no_main]

use std::sync::OnceLock;

use bottle_bundle::egress::websocket::frames::Frames;
use bottle_policy::{Scan, Secret};
use bottle_scan::{Direction, Profile, Scanner};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fn profile() -> Profile {
    static PROFILE: OnceLock<Profile> = OnceLock::new();
    let made = || {
        let secret =
            ("TOKEN".parse().expect("a name"), Secret::new("planted-secret-value".to_owned()));
        Scanner::new(&[secret]).profile(&Scan::default()).expect("a profile")
    };
    PROFILE.get_or_init(made).clone()
}

/// What comes out, whether something was found, and whether all was well and ended with a frame.
fn fed(
    direction: Direction,
    scanned: bool,
    bytes: &[u8],
    step: usize,
) -> (BytesMut, bool, Option<bool>) {
    let profile = profile();
    let scan = if scanned { profile.stream(direction, "").ok() } else { None };
    let (mut frames, mut out, mut found) =
        (Frames::new(direction, profile, scan), BytesMut::new(), Vec::new());
    for part in bytes.chunks(step) {
        if frames.feed(part, &mut out, &mut found).is_err() {
            return (out, !found.is_empty(), None);
        }
    }
    (out, !found.is_empty(), Some(frames.at_boundary()))
}

fuzz_target!(|data: &[u8]| {
    let Some((&[first, step], bytes)) = data.split_first_chunk() else { return };
    let direction = if first & 1 == 0 { Direction::Request } else { Direction::Response };
    let scanned = first & 2 != 0;
    let (out, found, state) = fed(direction, scanned, bytes, usize::MAX);
    let (cut_out, cut_found, cut_state) = fed(direction, scanned, bytes, usize::from(step).max(1));
    for (out, found) in [(&out, found), (&cut_out, cut_found)] {
        assert!(found || bytes.starts_with(out), "what goes on is not what came");
    }
    // A scanner may hold back what it is not sure of; without one nothing waits.
    if !scanned {
        assert_eq!(state, cut_state, "the verdict depends on how it was cut");
        assert!(state.is_none() || out == cut_out, "what goes on depends on how it was cut");
        assert!(state != Some(true) || out.len() == bytes.len(), "a whole frame is held back");
    }
});
