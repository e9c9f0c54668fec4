//! Benchmarks. Every figure is printed beside its limit, or beside a peer's figure from the same
//! run.

mod daemon;
mod egress;
mod engine;
mod git;
mod home;
mod launch;
mod peer;
mod process;
mod report;
mod runtime;
mod supervise;

use clap::{Parser, Subcommand};
use report::Report;

/// Measure bottles, and compare them with peers and limits in the same run.
#[derive(Debug, Parser)]
#[command(name = "bottle-bench", version)]
struct Cli {
    /// Print one JSON object per line: {"bench","case","metric","unit","value","baseline"}.
    #[arg(long, global = true)]
    json: bool,
    /// Number of runs; figures are their medians.
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
    /// Measure launch, exec, copy and memory, beside a bare QEMU with the same kernel and image.
    Launch {
        /// Number of launches in a row; none may fail or leave anything behind.
        #[arg(long, default_value_t = 30)]
        soak: u32,
    },
    /// Measure launches on smolvm, beside smolvm alone and QEMU, and our .smolmachine files, beside
    /// smolvm's own. Needs KVM.
    Engine,
    /// Measure packing the demo's image.
    Pack,
    /// Measure the egress proxy, beside no proxy, and beside mitmproxy if BOTTLE_MITMPROXY is set.
    Egress(egress::Options),
    /// Measure pushes and clones through git-gate, beside direct ones.
    Git(git::Options),
    /// Measure how soon an approval takes effect in a real bottle, and what the dashboard costs.
    Supervise(supervise::Options),
    /// Serve as the upstream of `egress`, in a separate process.
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
            eprintln!("bottle-bench: a figure exceeds its limit");
            std::process::ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("bottle-bench: {e}");
            std::process::ExitCode::from(70)
        }
    }
}
