//! The command line: one file a command, each parse → call → print.

mod audit;
mod cleanup;
mod completions;
mod dashboard;
mod diff;
mod doctor;
mod exec;
mod init;
mod launch;
mod list;
mod logs;
mod output;
mod pack;
mod plan;
mod plan_args;
mod preflight;
mod proposals;
mod pull;
mod reload;
mod resume;
mod rm;
mod stop;
mod unpulled;
mod web;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::error::Result;
use output::use_colour;

pub use output::report;

/// What each exit code means; README.md has the same list.
const EXIT_CODES: &str = "\
Exit codes:
  1      nothing was done: you declined, nobody could be asked, or nothing could be pulled
  2      the command line, or a name in it, is wrong
  3      a manifest, an agent file or a state file is wrong
  4      no engine can run here, or the guest does not answer or breaks the protocol
  5      the self-test failed, or an audit log is broken or cannot be written
  70     a bug in bottle, or something could not be made or torn down (the message says what)
  74     the host failed: a file cannot be read or written, or the disk is full
  128+n  signal n ended the launch
`launch`, `resume` and `exec` return the exit code of the command that ran.

Start with: bottle launch demo";

/// Run AI coding agents in micro-VMs that can reach nothing but their own sidecars.
///
/// A bottle has no network device. Its manifest (bottle.toml) says what it may reach; credentials
/// are added outside, where the agent cannot see them.
#[derive(Debug, Parser)]
#[command(
    name = "bottle",
    version,
    propagate_version = true,
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// Print more on standard error (-v: steps, -vv: everything).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

/// Each command's help is the documentation of its `Args`.
#[derive(Debug, Subcommand)]
enum Command {
    Launch(launch::Args),
    Init(init::Args),
    Plan(plan::Args),
    List(list::Args),
    Resume(resume::Args),
    Diff(diff::Args),
    Pull(pull::Args),
    Exec(exec::Args),
    Logs(logs::Args),
    Audit(audit::Args),
    Proposals(proposals::Args),
    Dashboard(dashboard::Args),
    Web(web::Args),
    Reload(reload::Args),
    Pack(pack::Args),
    Stop(stop::Args),
    Rm(rm::Args),
    Cleanup(cleanup::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// Runs the command line of this process and returns its exit code.
///
/// # Errors
/// That of the command.
pub fn run() -> Result<u8> {
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    if !matches!(cli.command, Command::Launch(_) | Command::Resume(_) | Command::Exec(_)) {
        end_with_a_closed_pipe();
    }
    match cli.command {
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
    }
}

/// Output that is piped into `head` ends quietly, as with other programs.
fn end_with_a_closed_pipe() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action of a signal runs no code of this program.
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
        .with_ansi(use_colour(&std::io::stderr()))
        .without_time()
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind::{
        Audit, Config, Declined, Engine, Guest, Internal, Io, SelfTest, Usage,
    };

    #[test]
    fn every_command_has_help() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn every_exit_code_is_in_the_help() {
        for kind in [Declined, Usage, Config, Engine, Guest, SelfTest, Audit, Internal, Io] {
            let line = format!("\n  {:<6} ", kind.exit_code());
            assert!(EXIT_CODES.contains(&line), "{kind:?}");
        }
    }
}
