//! `bench egress`: what the egress daemon costs, beside no proxy at all and beside mitmproxy with
//! an addon that does the same.
//!
//! All are measured in turns, in one run, against one upstream with TLS on the loopback. Rates that
//! fill the machine share its processors between the client, the upstream and the proxy; processor
//! time is the proxy's own.

mod cases;
mod client;
mod payload;
mod policy;
mod soak;
mod text;
mod upstream;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use upstream::{COMMAND as UPSTREAM, serve as serve_upstream};

use crate::daemon::{Daemon, Program};
use crate::report::Against::{AtLeast, AtMost};
use crate::report::{Against, Report, median};
use cases::BENCH;
use client::{Client, Way};
use policy::Setup;
use upstream::Upstream;

const DIRECT: &str = "direct";
const OURS: &str = "ours";
/// Where the peers are; unset, they are left out.
const MITMPROXY: &str = "BOTTLE_MITMPROXY";
const PIPELOCK: &str = "BOTTLE_PIPELOCK";

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds, in each of which everything is measured once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each load of which processor time is taken; its clock ticks every 10 ms.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    span: u64,
    /// Seconds for which memory has to stay flat; 600 for the claim.
    #[arg(long, default_value_t = 20)]
    soak: u64,
    /// `bottle-bundle` (default: the closure's).
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Nothing but this many seconds of GETs through ours, for a profiler; prints its process id.
    #[arg(long, value_name = "SECONDS")]
    profile: Option<u64>,
}

/// All values of a run, by case, metric and who was measured.
#[derive(Default)]
struct Values(BTreeMap<(&'static str, &'static str, &'static str), Vec<f64>>);

impl Values {
    fn add(&mut self, who: &'static str, case: &'static str, metric: &'static str, value: f64) {
        self.0.entry((case, metric, who)).or_default().push(value);
    }

    fn get(&self, who: &'static str, case: &'static str, metric: &'static str) -> Option<f64> {
        self.0.get(&(case, metric, who)).cloned().map(median)
    }
}

/// Runs all cases.
pub fn run(report: &mut Report, options: &Options) -> Result<(), String> {
    let upstream = Upstream::start()?;
    let setup = Setup::new(&upstream)?;
    let programs = programs(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let client = |way| Client::new(way, &[&setup.ca, &upstream.cert]);
    if let Some(seconds) = options.profile {
        let ours = Daemon::start(&programs[0], &setup.policy, &setup.input)?;
        let through = client(Way::Proxy(ours.socket()))?;
        return runtime.block_on(cases::profiled(&ours, &through, Duration::from_secs(seconds)));
    }
    let load = |report: &mut Report, when| {
        report.figure(BENCH, when, "load average", "", load_average(), None)
    };
    load(report, "before");
    let mut values = Values::default();
    for program in &programs {
        let runs = if program.name == OURS { 30 } else { 5 };
        for _ in 0..runs {
            values.add(
                program.name,
                "spawn to ready",
                "wall",
                Daemon::start(program, &setup.policy, &setup.input)?.ready,
            );
        }
    }
    for round in 0..options.rounds {
        // New daemons every round: a daemon's audit log is bounded, and so is the number of
        // requests that it can let through.
        let mut subjects = vec![(DIRECT, None, client(Way::Direct(upstream.address))?)];
        for program in &programs {
            let daemon = Daemon::start(program, &setup.policy, &setup.input)?;
            let through = client(Way::Proxy(daemon.socket()))?;
            subjects.push((program.name, Some(daemon), through));
        }
        for (name, daemon, client) in &subjects {
            if let Some(daemon) = daemon {
                runtime
                    .block_on(cases::does_its_work(client))
                    .map_err(|e| format!("{name}: {e}: {}", daemon.log()))?;
            }
        }
        let first = round == 0;
        for case in cases::all(Duration::from_secs(options.span), first) {
            for (name, daemon, client) in &subjects {
                let measured = runtime.block_on(case.measure(client, daemon.as_ref()));
                match measured {
                    Ok(all) => all
                        .into_iter()
                        .for_each(|(metric, value)| values.add(name, case.name, metric, value)),
                    Err(e) => {
                        let log = daemon.as_ref().map(Daemon::log).unwrap_or_default();
                        let e = format!("{name}, {}: {e}: {log}", case.name);
                        if matches!(*name, DIRECT | OURS) {
                            return Err(e);
                        }
                        eprintln!("bottle-bench: {e}");
                    }
                }
            }
        }
    }
    print(report, &values);
    soak::run(report, &runtime, &programs[0], &setup, &client, Duration::from_secs(options.soak))?;
    load(report, "after");
    Ok(())
}

/// Ours first, then the peers that are given.
fn programs(options: &Options) -> Result<Vec<Program>, String> {
    let bundle = match &options.bundle {
        Some(path) => path.clone(),
        None => bottle::closure::Closure::load().map_err(|e| e.to_string())?.bundle.binary.path,
    };
    let mut all = vec![Program { name: OURS, path: bundle, args: vec!["egress".to_owned()] }];
    let given = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let Some(mitmproxy) = given(MITMPROXY) else {
        eprintln!(
            "bottle-bench: mitmproxy is not given ({MITMPROXY}=$(nix/bootstrap build .#mitmproxy)): measured without it"
        );
        return Ok(all);
    };
    let path =
        if mitmproxy.is_dir() { mitmproxy.join("bin/bottle-egress-mitmproxy") } else { mitmproxy };
    all.push(Program { name: "mitmdump", path: path.clone(), args: Vec::new() });
    match given(PIPELOCK) {
        Some(pipelock) => {
            all.push(Program {
                name: "mitmdump → pipelock",
                path,
                args: vec!["--pipelock".to_owned(), pipelock.display().to_string()],
            });
        }
        None => {
            eprintln!("bottle-bench: pipelock is not given ({PIPELOCK}=FILE): measured without it")
        }
    }
    Ok(all)
}

/// The machine's, over the last minute.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

/// A figure of ours, beside everybody else's.
struct Line {
    case: &'static str,
    metric: &'static str,
    unit: &'static str,
    limit: Option<Against>,
}

const LINES: [Line; 29] = [
    line(cases::GET, "CPU/request", "µs", Some(AtMost(45.0))),
    line(cases::GET, "p50", "ms", None),
    line(cases::GET, "p99", "ms", None),
    line(cases::GET, "rate", "/s", None),
    line(cases::GET, "RSS", "MiB", Some(AtMost(25.0))),
    line(cases::POST, "CPU/request", "µs", Some(AtMost(45.0))),
    line(cases::POST, "p50", "ms", None),
    line(cases::POST, "p99", "ms", None),
    line(cases::POST, "rate", "/s", None),
    line(cases::POST, "RSS", "MiB", Some(AtMost(25.0))),
    line(cases::ONE, "p50", "ms", None),
    line(cases::ONE, "p99", "ms", None),
    line(cases::HTTP2, "CPU/request", "µs", None),
    line(cases::HTTP2, "p50", "ms", None),
    line(cases::HTTP2, "p99", "ms", None),
    line(cases::HTTP2, "rate", "/s", None),
    line(cases::FRESH, "rate", "/s", None),
    line(cases::FRESH, "CPU/request", "µs", None),
    line(cases::FRESH, "p50", "ms", None),
    line(cases::DOWN, "rate", "MB/s", None),
    line(cases::DOWN, "CPU/MB", "µs", None),
    line(cases::UP, "rate", "MB/s", None),
    line(cases::UP, "CPU/MB", "µs", None),
    line(cases::UPLOAD, "wall", "ms", None),
    line(cases::HELD, "answered", "", Some(AtLeast(1000.0))),
    line(cases::HELD, "wall", "ms", Some(AtMost(10_000.0))),
    line(cases::HELD, "RSS", "MiB", None),
    line(cases::HELD, "RSS after", "MiB", None),
    line("spawn to ready", "wall", "ms", Some(AtMost(15.0))),
];

const fn line(
    case: &'static str,
    metric: &'static str,
    unit: &'static str,
    limit: Option<Against>,
) -> Line {
    Line { case, metric, unit, limit }
}

fn print(report: &mut Report, values: &Values) {
    let peers = [DIRECT, "mitmdump", "mitmdump → pipelock"];
    for Line { case, metric, unit, limit } in &LINES {
        let Some(ours) = values.get(OURS, case, metric) else { continue };
        let beside: Vec<_> = peers
            .iter()
            .filter_map(|peer| Some((*peer, values.get(peer, case, metric)?)))
            .collect();
        report.beside(BENCH, case, metric, unit, ours, *limit, &beside);
    }
    let both = |peer, case, metric| {
        Some((values.get(OURS, case, metric)?, values.get(peer, case, metric)?))
    };
    let mut held = |case, what: &str, unit, value: Option<f64>, limit| {
        if let Some(value) = value {
            report.figure(BENCH, case, what, unit, value, Some(limit));
        }
    };
    for case in [cases::GET, cases::POST] {
        let ratio = both(DIRECT, case, "p50").map(|(ours, direct)| ours / direct);
        held(case, "p50, of direct", "×", ratio, AtMost(2.0));
        let ratio = both("mitmdump", case, "CPU/request").map(|(ours, mitm)| mitm / ours);
        held(case, "CPU, less than mitmdump", "×", ratio, AtLeast(20.0));
    }
    let percent = |case| both(DIRECT, case, "rate").map(|(ours, direct)| 100.0 * ours / direct);
    held(cases::FRESH, "rate, of direct", "%", percent(cases::FRESH), AtLeast(45.0));
    held(cases::DOWN, "rate, of direct", "%", percent(cases::DOWN), AtLeast(60.0));
    let over = both(DIRECT, cases::UPLOAD, "wall").map(|(ours, direct)| ours - direct);
    held(cases::UPLOAD, "over direct", "ms", over, AtMost(25.0));
}
