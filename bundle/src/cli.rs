//! The command line. Exit codes: 0 the daemon ended because it was told to, 1 it could not start or
//! failed, 2 usage, 4 the process cannot be confined.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use bottle_bundle::daemon::args::ParentArgs;
use bottle_bundle::https::{forge, renew};
use bottle_bundle::{confine, demo, egress, git_gate, supervise};
use clap::{Args, Parser, Subcommand};

/// Sidecar daemons of a bottle. `bottle` starts them; you rarely need to do it by hand.
#[derive(Parser)]
#[command(name = "bottle-bundle", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the HTTP proxy: TLS interception, routes, credential injection, audit.
    Egress(egress::Args),
    /// Run the git server over the bottle's upstreams: keys, push policy, scan, audit.
    GitGate(git_gate::Args),
    /// Register or revoke a deploy key at a forge's API; the request is a line of standard input.
    Forge(ParentArgs),
    /// Renew the host's login at a vendor; the request is a line of standard input.
    Renew(ParentArgs),
    /// Run the MCP server through which the agent asks its operator.
    Supervise(supervise::Args),
    /// Confine this process, then become CMD.
    Confine(Confine),
    /// Run an engine's programs, one after the other, in namespaces that end with this process.
    Machine(Machine),
    /// Run the TLS server on loopback that `bottle launch demo` talks to.
    DemoUpstream(ParentArgs),
}

#[derive(Args)]
struct Confine {
    #[command(flatten)]
    grants: GrantArgs,
    /// Give CMD no network: a network namespace of its own, and no sockets (Unix sockets included)
    /// except inherited ones.
    #[arg(long)]
    no_network: bool,
    /// Allow CMD new internet sockets, but no listening ones.
    #[arg(long, conflicts_with = "no_network")]
    outgoing: bool,
    /// Allow CMD new internet sockets, also listening ones.
    #[arg(long, conflicts_with_all = ["no_network", "outgoing"])]
    inet: bool,
    #[command(flatten)]
    parent: ParentArgs,
    /// Open file descriptors that CMD inherits, besides 0 to 2.
    #[arg(long, num_args = 1.., value_name = "N")]
    keep_fd: Vec<i32>,
    /// Continue where the kernel cannot confine.
    #[arg(long)]
    best_effort: bool,
    /// Program and arguments. Its own file and loader are always executable.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Files that stay reachable.
#[derive(Args)]
struct GrantArgs {
    /// Files or directories that may be read.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    ro: Vec<PathBuf>,
    /// Files or directories that may be read and executed.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    rx: Vec<PathBuf>,
    /// Files, devices or directories that may be read and written.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    rw: Vec<PathBuf>,
}

impl GrantArgs {
    fn into_grants(self, skip_missing: bool) -> confine::Grants {
        confine::Grants { ro: self.ro, rx: self.rx, rw: self.rw, skip_missing }
    }
}

#[derive(Args)]
struct Machine {
    #[command(flatten)]
    grants: GrantArgs,
    /// The machine's private directory; the programs see it as /tmp.
    #[arg(long)]
    dir: PathBuf,
    /// Unix socket that the programs see as /tmp/channel.
    #[arg(long)]
    channel: Option<PathBuf>,
    /// Mount DIR read-only at PLACE, a path relative to the machine's directory.
    #[arg(long, num_args = 2, value_names = ["DIR", "PLACE"])]
    shared: Vec<PathBuf>,
    /// Process id of the parent; everything dies with it.
    #[arg(long)]
    parent: u32,
    /// A program and its arguments, as a JSON array; repeatable.
    #[arg(long = "step", required = true, value_name = "JSON", value_parser = step)]
    steps: Vec<Step>,
    /// A program to run after the last step has succeeded; repeatable.
    #[arg(long = "afterwards", value_name = "JSON", value_parser = step)]
    afterwards: Vec<Step>,
}

#[derive(Clone)]
struct Step(Vec<OsString>);

fn step(json: &str) -> Result<Step, serde_json::Error> {
    Ok(Step(serde_json::from_str::<Vec<String>>(json)?.into_iter().map(OsString::from).collect()))
}

pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = git_gate::helper::run(&args) {
        return code;
    }
    match Cli::parse_from(args).command {
        Command::Egress(a) => run_daemon("egress", a.daemon.parent.clone(), || egress::run(&a)),
        Command::GitGate(a) => {
            run_daemon("git-gate", a.daemon.parent.clone(), || git_gate::run(&a))
        }
        Command::Forge(a) => run_daemon("forge", a, forge::run),
        Command::Renew(a) => run_daemon("renew", a, renew::run),
        Command::Supervise(a) => {
            run_daemon("supervise", a.daemon.parent.clone(), || supervise::run(&a))
        }
        Command::DemoUpstream(a) => run_daemon("demo-upstream", a, demo::run),
        Command::Confine(a) => become_command(a),
        Command::Machine(a) => run_machine(a),
    }
}

/// Takes the first step of confinement, then runs the daemon. An error is one line on standard error.
fn run_daemon(
    name: &str,
    ParentArgs { parent }: ParentArgs,
    run: impl FnOnce() -> Result<(), String>,
) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BOTTLE_LOG")
                .unwrap_or_else(|_| "warn,bottle_bundle=info".into()),
        )
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
    if let Err(e) = confine::begin(parent, &[]) {
        return cannot_confine(name, &e);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bottle-bundle {name}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn cannot_confine(name: &str, e: &confine::ConfineError) -> ExitCode {
    eprintln!("bottle-bundle {name}: {e}");
    ExitCode::from(4)
}

fn become_command(a: Confine) -> ExitCode {
    let network = match (a.no_network, a.outgoing, a.inet) {
        (true, ..) => confine::Network::Nothing,
        (_, true, _) => confine::Network::Outgoing,
        (.., true) => confine::Network::Inet,
        _ => confine::Network::Unrestricted,
    };
    let spec = confine::exec::ExecSpec {
        grants: a.grants.into_grants(false),
        network,
        parent: a.parent.parent,
        keep_fds: a.keep_fd,
        best_effort: a.best_effort,
        command: a.command,
    };
    match confine::exec::run(spec) {
        Ok(never) => match never {},
        Err(e) => cannot_confine("confine", &e),
    }
}

fn run_machine(a: Machine) -> ExitCode {
    let argvs = |steps: Vec<Step>| steps.into_iter().map(|Step(argv)| argv).collect();
    let shared = match &a.shared[..] {
        [dir, place] => Some((dir.clone(), place.clone())),
        _ => None,
    };
    let spec = confine::machine::MachineSpec {
        grants: a.grants.into_grants(true),
        dir: a.dir,
        channel: a.channel,
        shared,
        parent: a.parent,
        steps: argvs(a.steps),
        afterwards: argvs(a.afterwards),
    };
    confine::machine::run(spec).map_or_else(|e| cannot_confine("machine", &e), ExitCode::from)
}
