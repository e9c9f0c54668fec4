//! `bottle-bundle egress`: the one way out of a bottle.
//!
//! A request passes these stages, which docs/egress.md describes: *reading* ([`http1`]; CONNECT is
//! dispatched by [`server`] to [`tunnel`]), *destination* and *agreement* ([`request`]), *route*
//! ([`policy`], [`route`]), *scan* ([`outgoing`], [`body`], [`websocket`]), *limits*
//! ([`route::quota`]), *record* ([`audit`]), *address* and *credential* ([`upstream`],
//! [`route::credential`]), *answer* ([`body::download`]). [`proxy`] calls them in order.
//!
//! A module uses only modules that stand above it in this list: [`limits`], [`refusal`],
//! [`http1`], [`meter`], [`audit`], [`request`], [`tls`], [`route`], [`body`], [`upstream`],
//! [`policy`], [`shared`], [`tunnel`], [`outgoing`], [`websocket`], [`proxy`], [`server`].

pub mod audit;
pub mod body;
pub mod http1;
pub mod limits;
pub mod meter;
pub mod outgoing;
pub mod policy;
pub mod proxy;
pub mod refusal;
pub mod request;
pub mod route;
pub mod server;
pub mod shared;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod tunnel;
pub mod upstream;
pub mod websocket;

use std::path::PathBuf;
use std::sync::Arc;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{EgressInput, EgressReport};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, watch};

use crate::confine::{self, Grants};
use crate::daemon::args::DaemonArgs;
use crate::daemon::control_stdin::ControlStdin;
use crate::daemon::policy_file::PolicyWatch;
use crate::daemon::{limits as own_limits, report, runtime, socket};

use policy::live::LivePolicy;
use policy::reload;
use route::tokens::Tokens;
use shared::Shared;
use tls::LeafCertificates;
use upstream::network::Network;

/// Most memory that the daemon may write to, bytes.
const MEMORY_BYTES: u64 = 2 << 30;

/// Arguments of the daemon.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What all daemons take.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Policy, JSON.
    #[arg(long)]
    pub policy: PathBuf,
    /// Audit log, JSONL, appended to.
    #[arg(long)]
    pub audit: PathBuf,
}

/// Runs the daemon until its standard input ends or a signal arrives. [`confine::begin`] has run.
///
/// # Errors
/// One line that says what could not be started.
pub fn run(args: &Args) -> Result<(), String> {
    own_limits::raise_open_files(); // each request has two
    own_limits::limit_memory(MEMORY_BYTES);
    // Watched before it is read, so that no change is missed.
    let policy_watch = PolicyWatch::new(&args.policy)?;
    let policy = reload::read(&args.policy)?;
    let log = Arc::new(AuditWriter::open(&args.audit, audit::DAEMON).map_err(|e| e.to_string())?);
    let (listener, _socket_file) = socket::bind(&args.daemon.socket)?;

    let mut stdin = ControlStdin::new();
    let input: EgressInput = stdin.next_json("egress input")?;
    let network = Arc::new(Network::default());
    let certificates =
        LeafCertificates::new(&input.ca_cert, &input.ca_key).map_err(|e| e.to_string())?;
    let (report, reports) = unbounded_channel();
    let tokens = Arc::new(Tokens::new(input.tokens, &input.refreshable, &report));
    drop((input.ca_cert, input.ca_key, report));
    let policy = LivePolicy::new(policy, tokens, network.clone())
        .map_err(|e| format!("{}: {e}", args.policy.display()))?;
    let policy = Arc::new(policy);

    let confined = confine::seal(&grants(args), confine::Network::Outgoing, false)
        .map_err(|e| e.to_string())?;
    tracing::info!(bottle = args.daemon.slug(), "egress: {confined}");

    let served = runtime::run(async {
        let commanded = policy.clone();
        let ending = stdin.listen(move |line| match serde_json::from_slice(line) {
            Ok(command) => commanded.apply(command),
            Err(e) => tracing::error!("standard input: no command (column {})", e.column()),
        })?;
        let (live, reload_log) = (policy.clone(), log.clone());
        policy_watch.run(move |path| reload::apply(path, &live, &reload_log))?;
        let listener = socket::to_async(listener)?;
        let roots = network.clone();
        tokio::task::spawn_blocking(move || roots.roots().len());
        report::ready()?;
        tokio::spawn(write_reports(reports));
        let requests = Arc::new(Semaphore::new(network.limits.requests));
        let shared = Shared {
            policy,
            certificates,
            log: log.clone(),
            network,
            tasks: Default::default(),
            requests,
            ending,
            cut: watch::Sender::new(false),
        };
        server::serve(Arc::new(shared), listener).await
    });
    let finished = log.finish();
    served?;
    finished.map_err(|e| e.to_string())
}

/// Writes reports for the orchestrator to standard output.
async fn write_reports(mut reports: UnboundedReceiver<EgressReport>) {
    while let Some(message) = reports.recv().await {
        // If nobody reads it there is no new token either, and its request goes on without.
        let _ = report::json(&message);
    }
}

/// The files that egress reads and writes after its start.
fn grants(args: &Args) -> Grants {
    let mut ro = confine::tls_client_files();
    // A new policy arrives by rename, so its whole directory is readable.
    ro.push(socket::directory(&args.policy).to_owned());
    let run_dir = socket::directory(&args.daemon.socket).to_owned();
    Grants { ro, rx: Vec::new(), rw: vec![args.audit.clone(), run_dir], skip_missing: true }
}
