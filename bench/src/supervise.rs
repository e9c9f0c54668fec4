//! `bench supervise`: from a yes to its effect in a real bottle; what an idle dashboard costs
//! beside 20 bottles; how fast its filter is.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bottle::state::{BottleDir, Metadata, Phase, Roots};
use bottle::supervise::{Answer, Decide, Scope, Verdict};
use nix::libc;
use serde_json::json;

use crate::daemon::{cpu, resident};
use crate::home::{Home, Up};
use crate::process::Process;
use crate::report::Against::AtMost;
use crate::report::{Report, median};

const BENCH: &str = "supervise";
/// Bottles beside which the dashboard idles.
const BOTTLES: usize = 20;
/// Audit lines that it keeps.
const LINES: usize = 10_000;
/// So many proposals a desk takes in ten minutes, less one.
const DECISIONS: usize = 9;
/// How long a dashboard is watched.
const IDLE: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only the dashboard: no bottle is booted.
    #[arg(long)]
    dashboard: bool,
}

/// Runs all cases.
pub fn run(report: &mut Report, binary: &Path, options: &Options) -> Result<(), String> {
    dashboard(report, binary)?;
    if options.dashboard { Ok(()) } else { decisions(report, binary) }
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

fn roots(home: &Home) -> Result<Roots, String> {
    Roots::at(home.path().join("state/bottle"), home.path().join("run/bottle")).map_err(text)
}

/// Bottles as they are on disk while they run, each with a proposal that waits, and [`LINES`] audit
/// lines in all.
fn dashboard(report: &mut Report, binary: &Path) -> Result<(), String> {
    let home = Home::new(binary).map_err(text)?;
    let roots = roots(&home)?;
    let mut locks = Vec::new();
    for n in 0..BOTTLES {
        let dir = roots.bottle(&format!("bottle-{n}")).map_err(text)?;
        locks.push(dir.lock().map_err(text)?);
        dir.write_metadata(&Metadata {
            phase: Phase::Running,
            ..Metadata::starting(&dir, "claude", "qemu", "")
        })
        .map_err(text)?;
        std::fs::create_dir_all(dir.runtime()).map_err(text)?;
        std::fs::write(dir.runtime().join("policy.json"), r#"{"version":1,"routes":[]}"#)
            .map_err(text)?;
        std::fs::create_dir_all(dir.proposals()).map_err(text)?;
        std::fs::write(dir.proposals().join("1.json"), proposal(dir.slug()).to_string())
            .map_err(text)?;
        let mut log = File::create(dir.audit()).map_err(text)?;
        for line in 0..LINES / BOTTLES {
            writeln!(log, "{}", record(n, line)).map_err(text)?;
        }
    }
    let screen = Screen::start(&home)?;
    screen.until("bottle-0")?;
    std::thread::sleep(Duration::from_secs(3)); // what it does at first is not idle
    let (before, began) = (cpu(screen.child.id()), Instant::now());
    std::thread::sleep(IDLE);
    let percent = (cpu(screen.child.id()) - before) / 1e4 / began.elapsed().as_secs_f64();
    report.figure(BENCH, "dashboard, 20 bottles", "cpu", "%", percent, Some(AtMost(1.0)));
    report.figure(
        BENCH,
        "dashboard, 20 bottles",
        "rss",
        "MiB",
        resident(screen.child.id()),
        Some(AtMost(25.0)),
    );

    // From a key to the filtered log on the screen, through the terminal. A letter more each time;
    // the last one matches nothing.
    screen.keys("/")?;
    screen.until("filter:")?;
    let mut taken = Vec::new();
    for key in "match/499~".chars().map(String::from) {
        let began = Instant::now();
        screen.keys(&key)?;
        screen.until(&key)?; // what is typed is drawn with what is filtered
        taken.push(began.elapsed().as_secs_f64() * 1e3);
    }
    report.figure(
        BENCH,
        "10 000 lines, key to screen",
        "median",
        "ms",
        median(taken.clone()),
        Some(AtMost(50.0)),
    );
    report.figure(
        BENCH,
        "10 000 lines, key to screen",
        "worst",
        "ms",
        taken.into_iter().fold(0.0, f64::max),
        None,
    );
    drop(locks);
    Ok(())
}

fn record(bottle: usize, line: usize) -> serde_json::Value {
    let time = format!("2026-11-21T18:{:02}:{:02}.{bottle:03}Z", line / 60 % 60, line % 60);
    json!({
        "v": 1, "seq": line, "time": time, "daemon": "egress", "event": "request", "verdict": "allow", "admitted": line, "method": "GET",
        "host": "api.example.test", "port": 443, "path": format!("/repos/some/thing/match/{line}"), "route": "api", "status": 200,
        "bytes_up": 1200, "bytes_down": 34_567, "ms": 12, "prev": "0".repeat(64), "hash": "0".repeat(64)
    })
}

fn proposal(bottle: &str) -> serde_json::Value {
    json!({
        "version": 1, "id": 1, "bottle": bottle, "reason": "the tests need its fixtures, see the README of the project", "policy": "0".repeat(64),
        "ask": { "route": { "host": "docs.example.test", "port": 443, "methods": ["GET"], "paths": ["/fixtures/*"], "tls": true } },
        "diff": ["+ docs.example.test:443  GET  /fixtures/*"], "risks": [], "state": "pending",
        "made_ms": bottle::state::now_ms(), "expires_ms": u64::MAX, "decision": null
    })
}

/// `bottle dashboard` on a terminal of 120 columns and 40 lines.
struct Screen {
    child: Process,
    keys: File,
    shown: Receiver<Vec<u8>>,
}

impl Screen {
    fn start(home: &Home) -> Result<Self, String> {
        let (mut ours, mut line) = (-1, -1);
        let size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: both descriptors are written to, the size is read; the others may be null, see
        // openpty(3).
        let made = unsafe {
            libc::openpty(&mut ours, &mut line, std::ptr::null_mut(), std::ptr::null(), &size)
        };
        if made != 0 {
            return Err(format!("no terminal: {}", std::io::Error::last_os_error()));
        }
        // SAFETY: they are open, and nobody else's.
        let (ours, line) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(line)) };
        let end = || line.try_clone().map_err(text);
        let dashboard = home
            .bottle(&["dashboard"])
            .env("TERM", "xterm")
            .env("LANG", "C.UTF-8")
            .stdin_file(end()?)
            .stdout_file(end()?)
            .stderr_file(end()?);
        let child = Process::start(dashboard)?;
        let (send, shown) = channel();
        let mut output = ours.try_clone().map_err(text)?;
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                let _ = send.send(buffer[..n].to_vec());
            }
        });
        Ok(Self { child, keys: ours, shown })
    }

    fn keys(&self, keys: &str) -> Result<(), String> {
        while self.shown.try_recv().is_ok() {} // what was drawn before
        (&self.keys).write_all(keys.as_bytes()).map_err(text)
    }

    /// Waits until something that is drawn has `wanted` in it.
    fn until(&self, wanted: &str) -> Result<(), String> {
        let mut seen = String::new();
        while !seen.contains(wanted) {
            let more = self
                .shown
                .recv_timeout(Duration::from_secs(10))
                .map_err(|_| format!("the dashboard does not show {wanted:?}: {seen}"))?;
            seen.push_str(&String::from_utf8_lossy(&more));
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.keys("\u{3}");
        self.child.kill();
    }
}

const MANIFEST: &str = "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"sleep\", \"100000\"]\n\
                        [bottles.dev]\nimage = \"demo\"\nsupervise = true\n";

/// A yes, as any of the operator's programs sends it, and the first request that passes by it.
/// Requests come one after another on the bottle's socket, as fast as they are refused.
fn decisions(report: &mut Report, binary: &Path) -> Result<(), String> {
    let home = Home::new(binary).map_err(text)?;
    std::fs::write(home.path().join("bottle.toml"), MANIFEST).map_err(text)?;
    let dir = roots(&home)?.bottle("worker").map_err(text)?;
    let _up = Up(Process::start(home.bottle(&["launch", "worker", "--yes", "--quiet"]))?);
    let began = Instant::now();
    while !dir.status().is_some_and(|s| s.alive && s.metadata.phase == Phase::Running) {
        if began.elapsed() > Duration::from_secs(120) {
            return Err("the bottle does not come up".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let port = upstream()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let (mut answered, mut passed) = (Vec::new(), Vec::new());
    for n in 0..DECISIONS {
        let id = propose(&dir, port, n)?;
        let against = bottle::live_policy::in_force(&dir).map_err(text)?.routes.digest();
        let verdict = Verdict::Approve {
            against,
            scope: Scope::Launch,
            route: None,
            typed: Some("127.0.0.1".into()),
            answer: None,
        };
        let egress = dir.daemon_socket("egress");
        let first = std::thread::spawn(move || {
            loop {
                match get(&egress, port, n) {
                    Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(Instant::now()),
                    Ok(answer) if answer.starts_with("HTTP/1.1 403") => {}
                    other => return Err(format!("egress says {other:?}")),
                }
            }
        });
        std::thread::sleep(Duration::from_millis(50)); // some are refused first
        let began = Instant::now();
        let answer = runtime
            .block_on(bottle::launch::decide(&dir, Decide { id, via: "bench".into(), verdict }))
            .map_err(text)?;
        answered.push(began.elapsed().as_secs_f64() * 1e3);
        if !matches!(answer, Answer::Done { .. }) {
            return Err(format!("{answer:?}"));
        }
        let at = first.join().map_err(|_| "no answer".to_owned())??;
        passed.push(at.saturating_duration_since(began).as_secs_f64() * 1e3);
    }
    report.figure(
        BENCH,
        "approve → next request passes",
        "median",
        "ms",
        median(passed.clone()),
        Some(AtMost(50.0)),
    );
    report.figure(
        BENCH,
        "approve → next request passes",
        "worst",
        "ms",
        passed.into_iter().fold(0.0, f64::max),
        Some(AtMost(50.0)),
    );
    report.figure(
        BENCH,
        "approve → the operator is told",
        "median",
        "ms",
        median(answered),
        Some(AtMost(50.0)),
    );
    Ok(())
}

fn upstream() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
    let port = listener.local_addr().map_err(text)?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    });
    Ok(port)
}

/// As a program in the bottle would ask, whose stream ends at this socket. The number of the
/// proposal.
fn propose(dir: &BottleDir, port: u16, n: usize) -> Result<u32, String> {
    let arguments = json!({ "host": "127.0.0.1", "port": port, "tls": false, "methods": ["GET"], "paths": [format!("/{n}")], "reason": "bench" });
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "propose_route", "arguments": arguments } });
    let body = call.to_string();
    let head = "content-type: application/json\r\naccept: application/json, text/event-stream\r\nconnection: close";
    let request = format!(
        "POST / HTTP/1.1\r\nhost: 127.0.0.1:9100\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(&dir.daemon_socket("supervise"), &request)?;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_str(body).map_err(|_| answer.clone())?;
    let id = answer.pointer("/result/structuredContent/id").and_then(serde_json::Value::as_u64);
    id.and_then(|id| u32::try_from(id).ok()).ok_or_else(|| answer.to_string())
}

fn get(egress: &Path, port: u16, n: usize) -> Result<String, String> {
    exchange(
        egress,
        &format!(
            "GET http://127.0.0.1:{port}/{n} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
        ),
    )
}

fn exchange(socket: &Path, request: &str) -> Result<String, String> {
    let mut stream = UnixStream::connect(socket).map_err(text)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(text)?;
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(text)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
