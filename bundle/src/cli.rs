//! The command line. Exit codes: 0 ended as told, 1 could not start or failed, 2 usage, 4 cannot be
//! confined.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use bottle_bundle::https::{forge, renew};
use bottle_bundle::{confine, demo, egress, git_gate, supervise};
use clap::{Args, Parser, Subcommand};

/// Sidecar daemons of a bottle. `bottle` starts them; there is seldom a reason to do it by hand.
#[derive(Parser)]
#[command(name = "bottle-bundle", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// HTTP proxy: TLS interception, routes, credential injection, audit.
    Egress(Egress),
    /// git server over the bottle's upstreams: keys, push policy, scan, audit.
    GitGate(Gate),
    /// Ask a forge's API to let a deploy key in or lock it out; the request is a line of standard
    /// input.
    Forge(Once),
    /// Renew the host's login at a vendor; the request is a line of standard input.
    Renew(Once),
    /// MCP server through which the agent asks its operator.
    Supervise(Supervise),
    /// Confine this process, then become CMD.
    Confine(Confine),
    /// Run an engine's programs, one after the other, in namespaces that end with this process.
    Machine(Machine),
    /// The TLS server on loopback that `bottle launch demo` talks to.
    DemoUpstream(Once),
}

#[derive(Args)]
struct Egress {
    /// Unix socket to listen at (its directory stays writable).
    #[arg(long)]
    socket: PathBuf,
    /// Policy, JSON.
    #[arg(long)]
    policy: PathBuf,
    /// Audit log, JSONL, appended to.
    #[arg(long)]
    audit: PathBuf,
    /// The bottle's name, for log lines.
    #[arg(long)]
    slug: Option<String>,
    /// Process id of the parent; die with it.
    #[arg(long)]
    parent: Option<u32>,
}

#[derive(Args)]
struct Gate {
    /// Unix socket to listen at (its directory stays writable).
    #[arg(long)]
    socket: PathBuf,
    /// Policy, JSON.
    #[arg(long)]
    policy: PathBuf,
    /// Audit log, JSONL, appended to.
    #[arg(long)]
    audit: PathBuf,
    /// Directory of the mirrors.
    #[arg(long)]
    state: PathBuf,
    /// The bottle's name, for log lines.
    #[arg(long)]
    slug: Option<String>,
    /// git's program.
    #[arg(long)]
    git: PathBuf,
    /// OpenSSH's client, for ssh upstreams.
    #[arg(long)]
    ssh: Option<PathBuf>,
    /// gitleaks; without it only our own rules search.
    #[arg(long)]
    gitleaks: Option<PathBuf>,
    /// Directories of those programs' libraries, beside the system's.
    #[arg(long, num_args = 1.., value_name = "DIR")]
    lib: Vec<PathBuf>,
    /// Process id of the parent; die with it.
    #[arg(long)]
    parent: Option<u32>,
}

#[derive(Args)]
struct Supervise {
    /// Unix socket to listen at.
    #[arg(long)]
    socket: PathBuf,
    /// egress' policy, JSON.
    #[arg(long)]
    policy: PathBuf,
    /// git-gate's policy, JSON.
    #[arg(long)]
    git_policy: Option<PathBuf>,
    /// Audit logs of the other daemons.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    audit: Vec<PathBuf>,
    /// The bottle's name, for log lines.
    #[arg(long)]
    slug: Option<String>,
    /// Process id of the parent; die with it.
    #[arg(long)]
    parent: Option<u32>,
}

#[derive(Args)]
struct Confine {
    /// Files or directories that CMD may read.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    ro: Vec<PathBuf>,
    /// Files or directories that CMD may read and execute (its own file and loader always).
    #[arg(long, num_args = 1.., value_name = "PATH")]
    rx: Vec<PathBuf>,
    /// Files, devices or directories that CMD may read and write.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    rw: Vec<PathBuf>,
    /// No network: a network namespace of its own, and no socket, Unix ones included, but those
    /// that are inherited.
    #[arg(long)]
    no_network: bool,
    /// New internet sockets only, and no listening ones.
    #[arg(long, conflicts_with = "no_network")]
    outgoing: bool,
    /// New internet sockets only, listening ones too.
    #[arg(long, conflicts_with_all = ["no_network", "outgoing"])]
    inet: bool,
    /// Process id of the parent; CMD dies with it.
    #[arg(long)]
    parent: Option<u32>,
    /// Open file descriptors that CMD inherits, beside 0 to 2.
    #[arg(long, num_args = 1.., value_name = "N")]
    keep_fd: Vec<i32>,
    /// Go on where the kernel cannot confine.
    #[arg(long)]
    best_effort: bool,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Args)]
struct Machine {
    /// Files or directories that the programs may read.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    ro: Vec<PathBuf>,
    /// Files or directories that they may read and execute.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    rx: Vec<PathBuf>,
    /// Files, devices or directories that they may read and write.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    rw: Vec<PathBuf>,
    /// The machine's private directory; the programs see it as /tmp.
    #[arg(long)]
    dir: PathBuf,
    /// Unix socket that they see as /tmp/channel.
    #[arg(long)]
    channel: Option<PathBuf>,
    /// A directory that they see, read-only, as the one that is at PLACE (relative) in the
    /// machine's.
    #[arg(long, num_args = 2, value_names = ["DIR", "PLACE"])]
    shared: Vec<PathBuf>,
    /// Process id of the parent; everything dies with it.
    #[arg(long)]
    parent: u32,
    /// A program and its arguments, as a JSON array; more than one.
    #[arg(long = "step", required = true, value_name = "JSON", value_parser = step)]
    steps: Vec<Step>,
    /// Another one, to be run when the last step has ended well.
    #[arg(long = "afterwards", value_name = "JSON", value_parser = step)]
    afterwards: Vec<Step>,
}

#[derive(Clone)]
struct Step(Vec<OsString>);

fn step(json: &str) -> Result<Step, serde_json::Error> {
    Ok(Step(serde_json::from_str::<Vec<String>>(json)?.into_iter().map(OsString::from).collect()))
}

#[derive(Args)]
struct Once {
    /// Process id of the parent; die with it.
    #[arg(long)]
    parent: Option<u32>,
}

pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = git_gate::helper::run(&args) {
        return code;
    }
    let cli = Cli::parse_from(args);
    match cli.command {
        Command::Egress(a) => {
            let args =
                egress::Args { socket: a.socket, policy: a.policy, audit: a.audit, slug: a.slug };
            daemon("egress", a.parent, || egress::run(&args))
        }
        Command::GitGate(a) => {
            let Gate { socket, policy, audit, state, slug, git, ssh, gitleaks, lib, parent } = a;
            let args = git_gate::Args {
                socket,
                policy,
                audit,
                state,
                slug,
                git,
                ssh,
                gitleaks,
                libs: lib,
            };
            daemon("git-gate", parent, || git_gate::run(&args))
        }
        Command::Forge(a) => daemon("forge", a.parent, forge::run),
        Command::Renew(a) => daemon("renew", a.parent, renew::run),
        Command::Supervise(a) => {
            let Supervise { socket, policy, git_policy, audit: audits, slug, parent } = a;
            let args = supervise::Args { socket, policy, git_policy, audits, slug };
            daemon("supervise", parent, || supervise::run(&args))
        }
        Command::DemoUpstream(a) => daemon("demo-upstream", a.parent, demo::run),
        Command::Confine(a) => become_command(a),
        Command::Machine(a) => run_machine(a),
    }
}

/// Confines as far as it goes before the start, runs, and says in one line what went wrong.
fn daemon(name: &str, parent: Option<u32>, run: impl FnOnce() -> Result<(), String>) -> ExitCode {
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
        eprintln!("bottle-bundle {name}: {e}");
        return ExitCode::from(4);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bottle-bundle {name}: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(target_os = "linux")]
fn become_command(a: Confine) -> ExitCode {
    let grants = confine::Grants { ro: a.ro, rx: a.rx, rw: a.rw, skip_missing: false };
    let network = match (a.no_network, a.outgoing, a.inet) {
        (true, ..) => confine::Network::Nothing,
        (_, true, _) => confine::Network::Outgoing,
        (.., true) => confine::Network::Inet,
        _ => confine::Network::Unrestricted,
    };
    let best_effort = a.best_effort;
    let spec = confine::exec::ExecSpec {
        grants,
        network,
        parent: a.parent,
        keep_fds: a.keep_fd,
        best_effort,
        command: a.command,
    };
    match confine::exec::run(spec) {
        Ok(never) => match never {},
        Err(e) => {
            eprintln!("bottle-bundle confine: {e}");
            ExitCode::from(4)
        }
    }
}

#[cfg(target_os = "linux")]
fn run_machine(a: Machine) -> ExitCode {
    let grants = confine::Grants { ro: a.ro, rx: a.rx, rw: a.rw, skip_missing: true };
    let argvs = |steps: Vec<Step>| steps.into_iter().map(|Step(argv)| argv).collect();
    let shared = match &a.shared[..] {
        [dir, place] => Some((dir.clone(), place.clone())),
        _ => None,
    };
    let (steps, afterwards) = (argvs(a.steps), argvs(a.afterwards));
    let spec = confine::machine::MachineSpec {
        grants,
        dir: a.dir,
        channel: a.channel,
        shared,
        parent: a.parent,
        steps,
        afterwards,
    };
    confine::machine::run(spec).map_or_else(
        |e| {
            eprintln!("bottle-bundle machine: {e}");
            ExitCode::from(4)
        },
        ExitCode::from,
    )
}

#[cfg(not(target_os = "linux"))]
fn run_machine(_: Machine) -> ExitCode {
    eprintln!("bottle-bundle machine: only on Linux");
    ExitCode::from(4)
}

#[cfg(not(target_os = "linux"))]
fn become_command(_: Confine) -> ExitCode {
    eprintln!("bottle-bundle confine: only on Linux");
    ExitCode::from(4)
}
