//! `bench supervise`: the time from an approval to its effect in a real bottle, the cost of an idle
//! dashboard with 20 bottles, and the speed of its filter.

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
/// Number of bottles on the dashboard.
const BOTTLES: usize = 20;
/// Number of audit lines on the dashboard.
const AUDIT_LINES: usize = 10_000;
/// Number of approvals: one less than the proposals that are accepted in ten minutes.
const DECISIONS: usize = 9;
/// Time for which the idle dashboard is measured.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Options of the command line.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Measure only the dashboard, without booting a bottle.
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

/// Measures the dashboard with the state files of running bottles, each with a pending proposal,
/// and [`AUDIT_LINES`] audit lines in all.
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
        for line in 0..AUDIT_LINES / BOTTLES {
            writeln!(log, "{}", record(n, line)).map_err(text)?;
        }
    }
    let screen = Screen::start(&home)?;
    screen.until("bottle-0")?;
    std::thread::sleep(Duration::from_secs(3)); // it is not idle at first
    let (before, began) = (cpu(screen.child.id()), Instant::now());
    std::thread::sleep(IDLE_TIME);
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

    // The time from a key to the filtered log on the screen, through the terminal. Each key adds a
    // letter; with the last one, nothing matches.
    screen.keys("/")?;
    screen.until("filter:")?;
    let mut taken = Vec::new();
    for key in "match/499~".chars().map(String::from) {
        let began = Instant::now();
        screen.keys(&key)?;
        screen.until(&key)?; // the typed text and the filtered log are drawn together
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
        // SAFETY: openpty(3) writes both descriptors and reads the size; the other pointers may be
        // null.
        let made = unsafe {
            libc::openpty(&mut ours, &mut line, std::ptr::null_mut(), std::ptr::null(), &size)
        };
        if made != 0 {
            return Err(format!("no terminal: {}", std::io::Error::last_os_error()));
        }
        // SAFETY: the descriptors are open, and nothing else owns them.
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
        while self.shown.try_recv().is_ok() {} // discard what was drawn before
        (&self.keys).write_all(keys.as_bytes()).map_err(text)
    }

    /// Waits until the screen output contains `wanted`.
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

/// Measures the time from an approval, sent as the operator's programs send it, to the first
/// request that passes. Requests are sent on the bottle's socket one after another, as fast as they
/// are refused.
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
    let runtime = crate::runtime::current_thread()?;
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
        std::thread::sleep(Duration::from_millis(50)); // so that some are refused first
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
    let worst = passed.iter().copied().fold(0.0, f64::max);
    for (case, metric, ms) in [
        ("approve → next request passes", "median", median(passed)),
        ("approve → next request passes", "worst", worst),
        ("approve → the operator is told", "median", median(answered)),
    ] {
        report.figure(BENCH, case, metric, "ms", ms, Some(AtMost(50.0)));
    }
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

/// Proposes a route on the socket at which the streams of programs in the bottle end. Returns the
/// number of the proposal.
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
