//! How fast clean text is scanned, MB/s of CPU time: `cargo test --release -p bottle-scan --test
//! speed -- --ignored --nocapture`.

#![allow(clippy::expect_used)]

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bottle_policy::Scan;
use bottle_scan::Direction;
use bytes::Bytes;
use common::{Random, scanner};

/// Bytes of one measurement, and of one piece.
const TOTAL: usize = 32 << 20;
const PIECE: usize = 64 << 10;

/// CPU time of this thread, where the system tells it (Linux).
fn cpu(since: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = stat.and_then(|stat| stat.split(' ').next().and_then(|nanos| nanos.parse().ok()));
    nanos.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::cast_precision_loss)]
fn megabytes_a_second() {
    let profile = scanner().profile_elsewhere(&Scan::default()).expect("profile");
    let code = [
        include_str!("../src/matcher.rs"),
        include_str!("../src/unescape.rs"),
        include_str!("../src/coding/flate.rs"),
    ]
    .concat();
    let json = code.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut random = Random(42);
    let noise: Vec<u8> = (0..1 << 20).map(|_| random.below(256).to_le_bytes()[0]).collect();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &noise);
    for (name, text) in [
        ("source code", code.into_bytes()),
        ("JSON", json.into_bytes()),
        ("Base64", base64.into_bytes()),
        ("random bytes", noise),
    ] {
        let text = Bytes::from(text.repeat(1 + TOTAL / text.len()));
        let start = Instant::now();
        let best = (0..5).map(|_| {
            let before = cpu(start);
            let mut stream = profile.stream(Direction::Request, "").expect("stream");
            let (mut out, mut found) = (Vec::new(), Vec::new());
            for from in (0..text.len()).step_by(PIECE) {
                let piece = text.slice(from..(from + PIECE).min(text.len()));
                stream.push(piece, &mut out, &mut found);
                black_box(&out);
                out.clear();
            }
            assert!(found.is_empty(), "{name}: {found:?}");
            cpu(start).saturating_sub(before)
        });
        let seconds = best.min().unwrap_or_default().as_secs_f64();
        println!("{name}: {:.0} MB/s", text.len() as f64 / 1e6 / seconds);
    }
}
