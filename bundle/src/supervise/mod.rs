//! `bottle-bundle supervise`: an MCP server on the bottle's socket, through which the agent asks its
//! operator.
//!
//! A request passes [`http`] (limits), the SDK (JSON-RPC), [`tools`] (which can be called),
//! `arguments` (what can be asked for, as types) and [`orchestrator`] (lines on standard output to
//! the orchestrator, which keeps the queue and decides nothing by itself). [`denials`] reads what the
//! other daemons refused.
//!
//! The daemon can write no file and open no socket. Someone who takes it over can ask, and read what
//! the bottle may reach, and nothing else.

mod arguments;
pub mod checks;
pub mod denials;
pub mod http;
pub mod orchestrator;
pub mod policies;
mod tool_list;
pub mod tools;

#[cfg(test)]
mod attacks;

use std::sync::Arc;

use crate::confine::{self, Grants, Network};
use crate::daemon::args::DaemonArgs;
use crate::daemon::control_stdin::ControlStdin;
use crate::daemon::{limits, report, runtime, socket};

use http::{Limits, McpEndpoint};
use orchestrator::OrchestratorLink;
use policies::PolicyFiles;
use tools::Tools;

/// Most memory that the daemon may write to, in bytes.
const MAX_MEMORY_BYTES: u64 = 256 << 20;

/// Arguments of the daemon.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What all daemons take.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Files of the other daemons.
    #[command(flatten)]
    pub files: PolicyFiles,
}

/// Runs the daemon until its standard input ends or it is told to stop. [`confine::begin`] has run.
///
/// # Errors
/// One line that says what could not be started.
pub fn run(args: &Args) -> Result<(), String> {
    limits::limit_memory(MAX_MEMORY_BYTES);
    let (listener, _socket_file) = socket::bind(&args.daemon.socket)?;
    let mut stdin = ControlStdin::new();
    stdin.next_line().map_err(|e| e.to_string())?; // there are no secrets, but each daemon gets a line
    let confined =
        confine::seal(&grants(&args.files), Network::Nothing, false).map_err(|e| e.to_string())?;
    tracing::info!(bottle = args.daemon.slug(), "supervise: {confined}");

    runtime::run(async {
        let limits = Limits::default();
        let (link, lines) = OrchestratorLink::new(limits.waiting, limits.wait);
        let link = Arc::new(link);
        let receiver = link.clone();
        let ending = stdin.listen(move |line| receiver.receive(line))?;
        let listener = socket::to_async(listener)?;
        report::ready()?;
        tokio::spawn(orchestrator::write_lines(lines));
        let tools = Tools::new(args.files.clone(), link);
        McpEndpoint::new(tools, limits).serve(listener, ending).await
    })
}

/// The daemon may read the policies' directory and the logs.
fn grants(files: &PolicyFiles) -> Grants {
    let mut ro = vec![socket::directory(&files.policy).to_owned()];
    ro.extend(files.audit.iter().cloned());
    Grants { ro, rx: Vec::new(), rw: Vec::new(), skip_missing: true }
}
