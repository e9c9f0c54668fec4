//! How fast the scanner is: `cargo run --release -p bottle-scan --example throughput [FILE…]`. The
//! files (default: this crate's sources) are the source code that is scanned.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bottle_policy::{Scan, Secret};
use bottle_scan::{Direction, Profile, Scanner};
use bytes::Bytes;

/// Bytes that one measurement scans, and of one piece.
const TOTAL: usize = 64 << 20;
const PIECE: usize = 64 << 10;

/// Time that this thread has had on a CPU, where the system tells it (Linux), so that others who
/// run do not count.
fn cpu(since: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = stat.and_then(|stat| stat.split(' ').next().and_then(|nanos| nanos.parse().ok()));
    nanos.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

/// The best of some runs: what else uses the caches only makes one slower.
fn best(mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut time = || {
        let before = cpu(start);
        run();
        cpu(start).saturating_sub(before)
    };
    (0..9).map(|_| time()).min().unwrap_or_default()
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 42_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(len)
    .collect()
}

/// A request to a model: messages of source code and tool calls, as JSON.
fn json(code: &str) -> Vec<u8> {
    let lines: Vec<&str> = code.lines().collect();
    let messages: Vec<String> = lines
        .chunks(30)
        .map(|lines| {
            let text = lines.join("\n").replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
            format!(
                r#"{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"toolu_01A09q90qw90lq917835lq9","content":"{text}"}}]}}"#
            )
        })
        .collect();
    format!(
        r#"{{"model":"claude","max_tokens":32000,"stream":true,"messages":[{}]}}"#,
        messages.join(",")
    )
    .into_bytes()
}

#[allow(clippy::cast_precision_loss)]
fn rate(profile: &Profile, direction: Direction, text: &Bytes) -> (f64, usize) {
    let mut finds = 0;
    let time = best(|| {
        let Ok(mut stream) = profile.stream(direction, "") else { return };
        let (mut out, mut found) = (Vec::new(), Vec::new());
        let mut from = 0;
        while from < text.len() {
            let to = (from + PIECE).min(text.len());
            stream.push(text.slice(from..to), &mut out, &mut found);
            black_box(&out);
            out.clear();
            from = to;
        }
        stream.finish(&mut out, &mut found);
        finds = found.len();
    });
    (text.len() as f64 / 1e6 / time.as_secs_f64(), finds)
}

#[allow(clippy::cast_possible_truncation)]
fn main() {
    let secrets: Vec<_> = (0..5)
        .filter_map(|i| {
            Some((
                format!("TOKEN_{i}").parse().ok()?,
                Secret::new(hex::encode(&noise(1000)[i * 40..][..20])),
            ))
        })
        .collect();
    println!(
        "Scanner::new: {:?}",
        best(|| (0..50).for_each(|_| drop(black_box(Scanner::new(&secrets))))) / 50
    );
    let scanner = Scanner::new(&secrets);
    // Warnings only, so that what is found does not end the run.
    let scan =
        Scan { limit: Some(bottle_policy::Action::Warn), responses: true, ..Scan::default() };
    let Ok(profile) = scanner.profile(&scan) else { return };

    let files: Vec<String> = std::env::args().skip(1).collect();
    let mut code: String =
        files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    if code.is_empty() {
        code = [
            include_str!("../src/matcher.rs"),
            include_str!("../src/secret.rs"),
            include_str!("../src/coding.rs"),
        ]
        .concat();
    }
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, noise(1 << 20));
    for (name, text) in [
        ("source code", code.clone().into_bytes()),
        ("JSON", json(&code)),
        ("base64", base64.into_bytes()),
        ("random bytes", noise(1 << 20)),
    ] {
        let text = Bytes::from(text.repeat(1 + TOTAL / text.len()));
        for direction in [Direction::Request, Direction::Response] {
            let (rate, finds) = rate(&profile, direction, &text);
            println!("{name:>14} {direction:?}: {rate:.0} MB/s ({finds} finds)");
        }
    }

    let Ok(strict) = scanner.profile(&Scan::default()) else { return };
    let headers: [&[u8]; 10] = [
        b"api.anthropic.com",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
        b"application/json",
        b"gzip, deflate, br, zstd",
        b"en-US,en;q=0.9",
        b"2023-06-01",
        b"fine-grained-tool-streaming-2025-05-14,interleaved-thinking-2025-05-14",
        b"session=0123456789abcdef0123456789abcdef; theme=dark",
        b"4711",
        b"no-cache, no-store",
    ];
    const TIMES: u32 = 100_000;
    let url: &[u8] = b"/v1/messages?beta=true&session=5f0c3a&cursor=eyJpZCI6MTIz%3D%3D";
    let time = |name: &str, run: &mut dyn FnMut()| {
        let each = best(|| (0..TIMES).for_each(|_| run())) / TIMES;
        println!("{name}: {} ns", each.as_nanos());
    };
    time("text of a request target", &mut || {
        drop(black_box(strict.text(Direction::Request, black_box(url))))
    });
    time("text of a target without escapes", &mut || {
        drop(black_box(strict.text(Direction::Request, black_box(&url[..55]))))
    });
    time("text of ten headers", &mut || {
        headers.iter().for_each(|value| drop(black_box(strict.text(Direction::Request, value))))
    });
    let small = Bytes::from(json(&code[..900.min(code.len())]));
    let (mut out, mut found) = (Vec::with_capacity(4), Vec::new());
    time(&format!("stream of a body of {} bytes", small.len()), &mut || {
        let Ok(mut stream) = strict.stream(Direction::Request, "") else { return };
        stream.push(small.clone(), &mut out, &mut found);
        stream.finish(&mut out, &mut found);
        out.clear();
    });
    println!("size of a stream: {} bytes", size_of::<bottle_scan::Stream>());
}
