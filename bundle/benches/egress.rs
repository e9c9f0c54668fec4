//! Numbers of the real daemon: `cargo bench -p bottle-bundle`. Printed for people; nothing is
//! asserted here.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{BIN, Egress, Upstream, read_body};

const CONNECTIONS: usize = 16;
const SPAN: Duration = Duration::from_secs(3);

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return; // `cargo test --benches`
    }
    let upstream = Upstream::start(100 << 20);
    let policy = upstream.policy();

    let mut ready: Vec<f64> = (0..30).map(|_| millis(|| drop(Egress::start(&policy)))).collect();
    ready.sort_by(f64::total_cmp);
    println!("spawn to ready (and killed): median {:.1} ms, worst {:.1} ms", ready[15], ready[29]);

    let egress = Egress::start(&policy);
    println!("peak RSS at rest: {} KiB", egress.peak_kib());
    println!("keep-alive, {CONNECTIONS} connections: {:.0} requests/s", rate(&egress, true));
    println!("new tunnel each: {:.0} requests/s", rate(&egress, false));
    let mut io = egress.tls("up.test");
    let ms = millis(|| {
        write!(io, "GET /big HTTP/1.1\r\nHost: up.test\r\n\r\n").unwrap();
        read_body(&mut io);
    });
    println!("100 MiB down: {:.0} MiB/s", 100_000.0 / ms);
    println!("peak RSS after: {} KiB", egress.peak_kib());

    let run = |args: &[&str]| {
        (0..50)
            .map(|_| millis(|| drop(Command::new(args[0]).args(&args[1..]).status())))
            .fold(f64::MAX, f64::min)
    };
    let plain = run(&["/bin/true"]);
    let confined = run(&[
        BIN,
        "confine",
        "--ro",
        "/lib",
        "--ro",
        "/usr/lib",
        "--no-network",
        "--",
        "/bin/true",
    ]);
    println!("confine --no-network: {:.1} ms more than plain ({plain:.1} ms)", confined - plain);
}

fn millis(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64() * 1000.0
}

fn rate(egress: &Egress, keep: bool) -> f64 {
    let end = Instant::now() + SPAN;
    let count = |egress: &Egress| {
        let mut n = 0;
        let mut io = egress.tls("up.test");
        while Instant::now() < end {
            if !keep && n > 0 {
                io = egress.tls("up.test");
            }
            write!(io, "GET /x HTTP/1.1\r\nHost: up.test\r\n\r\n").unwrap();
            read_body(&mut io);
            n += 1;
        }
        n
    };
    let total: u32 = std::thread::scope(|s| {
        let all: Vec<_> = (0..CONNECTIONS).map(|_| s.spawn(|| count(egress))).collect();
        all.into_iter().map(|t| t.join().unwrap()).sum()
    });
    f64::from(total) / SPAN.as_secs_f64()
}
