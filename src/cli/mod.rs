//! The command line: one file a command, each parse → call → print.

mod audit;
mod cleanup;
mod completions;
mod doctor;
mod exec;
mod init;
mod launch;
mod list;
mod logs;
mod pack;
mod plan;
mod plan_args;
mod preflight;
mod proposals;
mod reload;
mod resume;
mod rm;
mod stop;
mod work;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::dashboard::{tui, web};
use crate::error::{Context, Error, Kind, Result};
use crate::host::stderr::say;
use crate::manifest::neutral;

/// Run AI coding agents in micro-VMs that can reach nothing but their own sidecars.
///
/// A bottle has no network device. What it may reach, its manifest (bottle.toml) says; credentials
/// are added outside, where the agent cannot see them.
#[derive(Debug, Parser)]
#[command(
    name = "bottle",
    version,
    propagate_version = true,
    after_help = "Exit codes: 2 usage, 3 configuration, 4 no engine, \
5 self-test failed or audit log broken, 70 internal; 128+n ended by signal n; launch and exec pass the command's own code on.\n\nStart with: bottle launch demo"
)]
pub struct Cli {
    /// Say more on standard error (-v: steps, -vv: everything).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a bottle, run its agent, tear everything down.
    Launch(launch::Args),
    /// Write a manifest for the project in this directory.
    Init(init::Args),
    /// Show what a launch would do, without doing it.
    Plan(plan::Args),
    /// Show the bottles of this user.
    List(list::Args),
    /// Go on with a stopped bottle and its agent's conversation.
    Resume(resume::Args),
    /// Show what a bottle changed of the project.
    Diff(work::DiffArgs),
    /// Bring a bottle's changes into the project.
    Pull(work::PullArgs),
    /// Run a command in a running bottle.
    Exec(exec::Args),
    /// Show what a bottle did: each request, what was decided, and why.
    Logs(logs::Args),
    /// Check audit logs.
    Audit(audit::Args),
    /// Show what agents ask for, and decide.
    Proposals(proposals::Args),
    /// Show bottles, what their agents ask for, and what they do; decide with single keys.
    Dashboard(tui::Args),
    /// Serve the dashboard to a browser on this machine.
    Web(web::Args),
    /// Read a running bottle's manifest again and put its new routes and git rules in force.
    Reload(reload::Args),
    /// Turn an OCI archive into an image for smolvm.
    Pack(pack::Args),
    /// Tear a running bottle down.
    Stop(stop::Args),
    /// Forget a bottle that is not running (its audit log too).
    Rm(rm::Args),
    /// Tear down what crashed launches left.
    Cleanup(cleanup::Args),
    /// Say whether bottles can run here, and what to do if not.
    Doctor(doctor::Args),
    /// Print shell completions.
    Completions(completions::Args),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    if !matches!(cli.command, Command::Launch(_) | Command::Resume(_) | Command::Exec(_)) {
        end_with_a_closed_pipe();
    }
    let ran = match cli.command {
        Command::Launch(args) => args.run(),
        Command::Init(args) => args.run(),
        Command::Resume(args) => args.run(),
        Command::Diff(args) => args.run(),
        Command::Pull(args) => args.run(),
        Command::Plan(args) => args.run(),
        Command::List(args) => args.run(),
        Command::Exec(args) => args.run(),
        Command::Logs(args) => args.run(),
        Command::Audit(args) => args.run(),
        Command::Proposals(args) => args.run(),
        Command::Dashboard(args) => args.run(),
        Command::Web(args) => args.run(),
        Command::Reload(args) => args.run(),
        Command::Pack(args) => args.run(),
        Command::Stop(args) => args.run(),
        Command::Rm(args) => args.run(),
        Command::Cleanup(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Completions(args) => args.run(&mut Cli::command()),
    };
    match ran {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn report(error: &Error) {
    let (red, dim, plain) =
        if colour() { ("\x1b[1;31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    // Messages may quote what a guest or a file said.
    let clean = |text: &str| text.lines().map(neutral).collect::<Vec<_>>().join("\n");
    say(format_args!("{red}bottle: {plain}{}", clean(&error.to_string())));
    if let Some(hint) = error.hint_text() {
        say(format_args!("{dim}  hint: {}{plain}", clean(hint)));
    }
}

fn colour() -> bool {
    colour_on(&std::io::stderr())
}

/// Colour only on a terminal, and never against NO_COLOR.
fn colour_on(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// What is piped into `head` ends quietly, as other programs do.
fn end_with_a_closed_pipe() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "bottle=debug,bottle_channel=info",
        _ => "trace",
    };
    let filter = EnvFilter::new(level);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour())
        .without_time()
        .init();
}

/// Prints `value` as one JSON document.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value)
        .context(Kind::Internal, || "cannot write JSON".into())?;
    println!("{json}");
    Ok(())
}
