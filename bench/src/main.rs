//! Benchmarks. Every figure is printed beside its peer's figure, or its limit, from the same run.

mod daemon;
mod egress;
mod engine;
mod git;
mod home;
mod launch;
mod peer;
mod process;
mod report;
mod supervise;

use clap::{Parser, Subcommand};
use report::Report;

/// Measure bottles against their peers and limits, in one run.
#[derive(Debug, Parser)]
#[command(name = "bottle-bench", version)]
struct Cli {
    /// One JSON object a line: {"bench","case","metric","unit","value","baseline"}.
    #[arg(long, global = true)]
    json: bool,
    /// Runs of which the median is taken.
    #[arg(long, global = true, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The orchestrator (default: `bottle` beside this program, or on PATH).
    #[arg(long, global = true, value_name = "FILE")]
    bottle: Option<std::path::PathBuf>,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Launch, exec, copy, memory; against a bare QEMU with the same kernel and image.
    Launch {
        /// Launches in a row, none of which may fail or leave anything behind.
        #[arg(long, default_value_t = 30)]
        soak: u32,
    },
    /// Launches on smolvm; against smolvm alone, and QEMU; and .smolmachine files against smolvm's
    /// own. Needs KVM.
    Engine,
    /// Packing the demo's image.
    Pack,
    /// The egress proxy; against no proxy, and against mitmproxy where BOTTLE_MITMPROXY says where
    /// it is.
    Egress(egress::Options),
    /// Pushes and clones through git-gate; against the same made directly.
    Git(git::Options),
    /// A decision's effect in a real bottle, and what the dashboard costs.
    Supervise(supervise::Options),
    /// The upstream of `egress`, in a process of its own.
    #[command(name = egress::UPSTREAM, hide = true)]
    Upstream,
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let mut report = Report::new(cli.json);
    let binary = cli.bottle.unwrap_or_else(|| home::beside_this_program("bottle"));
    let ran = match cli.bench {
        Bench::Launch { soak } => launch::run(&mut report, &binary, cli.runs, soak),
        Bench::Engine => engine::run(&mut report, &binary, cli.runs),
        Bench::Pack => engine::pack(&mut report, cli.runs),
        Bench::Egress(options) => egress::run(&mut report, &options),
        Bench::Git(options) => git::run(&mut report, &options, cli.runs),
        Bench::Supervise(options) => supervise::run(&mut report, &binary, &options),
        Bench::Upstream => egress::serve_upstream(),
    };
    match ran {
        Ok(()) if report.within_limits() => std::process::ExitCode::SUCCESS,
        Ok(()) => {
            eprintln!("bottle-bench: a figure is beyond its limit");
            std::process::ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("bottle-bench: {e}");
            std::process::ExitCode::from(70)
        }
    }
}
