//! `bottle-bundle egress`: the one way out of a bottle.
//!
//! A request passes, in this order: [`wire`] (one reading of its bytes), [`authority`] and
//! [`routes`] at CONNECT, [`connect`] (TLS for that host, by a certificate of [`tls`]) or
//! [`passthrough`] ([`hello`], and nothing more), [`wire`] again inside the tunnel, or HTTP/2,
//! [`proxy`] (Host, [`path`], method, route, `bottle_scan` over what it says), [`spend`] (budget,
//! rate), [`headers`] (credential, by [`tokens`]), [`upstream`] ([`resolve`], [`address`], verified
//! TLS), [`body`] or [`websocket`] ([`frames`]) as its content streams, and [`audit`] writes an
//! audit line before its first byte leaves and another when the last byte of the answer has passed.
//! [`reload`] puts another policy in force.

pub mod address;
pub mod audit;
pub mod authority;
pub mod body;
pub mod chunked;
pub mod connect;
pub mod frames;
pub mod head;
pub mod headers;
pub mod hello;
pub mod passthrough;
pub mod path;
pub mod proxy;
pub mod refusal;
pub mod reload;
pub mod resolve;
pub mod routes;
pub mod server;
pub mod spend;
pub mod tls;
pub mod tokens;
pub mod upstream;
pub mod websocket;
pub mod wire;

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod protocols;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{EgressInput, EgressReport};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, watch};

use crate::confine::{self, Grants};
use crate::daemon::args::DaemonArgs;
use crate::daemon::control_stdin::ControlStdin;
use crate::daemon::policy_file::PolicyWatch;
use crate::daemon::{limits, report, runtime, socket};

/// Times and numbers that bound what a guest can hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from the guest at once; more wait.
    pub connections: usize,
    /// For a whole head, and for a connection without a request.
    pub head: Duration,
    /// For TLS after CONNECT.
    pub handshake: Duration,
    /// For lookup, TCP and TLS with an upstream.
    pub connect: Duration,
    /// Without an answer from the upstream after the request's last byte.
    pub response_head: Duration,
    /// Without a byte inside a response.
    pub silence: Duration,
    /// An unused connection to an upstream is kept.
    pub pool_idle: Duration,
    /// For one request from its first byte to the last of its response, and for a tunnel or
    /// WebSocket.
    pub total: Duration,
    /// Requests, tunnels and WebSockets on their way at once, on all connections; more wait. What
    /// each of them may buffer times this bounds the daemon's memory.
    pub requests: usize,
    /// Streams of one HTTP/2 connection at once.
    pub streams: u32,
    /// For open requests when the daemon ends. All of its end must take less than the 3 s after
    /// which it is killed.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(120),
            handshake: Duration::from_secs(20),
            connect: Duration::from_secs(10),
            response_head: Duration::from_secs(300),
            silence: Duration::from_secs(600),
            pool_idle: Duration::from_secs(60),
            total: Duration::from_secs(24 * 3600),
            requests: 768,
            streams: 128,
            drain: Duration::from_secs(1),
        }
    }
}

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
    limits::raise_open_files(); // each request has two
    limits::limit_memory(MEMORY_BYTES);
    // Watched before it is read, so that no change is missed.
    let policy_watch = PolicyWatch::new(&args.policy)?;
    let policy = reload::read(&args.policy)?;
    let log = Arc::new(AuditWriter::open(&args.audit, audit::DAEMON).map_err(|e| e.to_string())?);
    let (listener, _socket_file) = socket::bind(&args.daemon.socket)?;

    let mut stdin = ControlStdin::new();
    let input: EgressInput = stdin.next_json("egress input")?;
    let network = Arc::new(upstream::Network::default());
    let leaves = tls::Leaves::new(&input.ca_cert, &input.ca_key).map_err(|e| e.to_string())?;
    let (report, reports) = unbounded_channel();
    let tokens = Arc::new(tokens::Tokens::new(input.tokens, &input.refreshable, &report));
    drop((input.ca_cert, input.ca_key, report));
    let routes = routes::Live::new(policy, tokens, network.clone())
        .map_err(|e| format!("{}: {e}", args.policy.display()))?;
    let routes = Arc::new(routes);

    let confined = confine::seal(&grants(args), confine::Network::Outgoing, false)
        .map_err(|e| e.to_string())?;
    tracing::info!(bottle = args.daemon.slug(), "egress: {confined}");

    let served = runtime::run(async {
        let commanded = routes.clone();
        let ending = stdin.listen(move |line| match serde_json::from_slice(line) {
            Ok(command) => commanded.told(command),
            Err(e) => tracing::error!("standard input: no command (column {})", e.column()),
        })?;
        let (live, reload_log) = (routes.clone(), log.clone());
        policy_watch.run(move |path| reload::apply(path, &live, &reload_log))?;
        let listener = socket::to_async(listener)?;
        let roots = network.clone();
        tokio::task::spawn_blocking(move || roots.roots().len());
        report::ready()?;
        tokio::spawn(write_reports(reports));
        let requests = Arc::new(Semaphore::new(network.limits.requests));
        let proxy = proxy::Proxy {
            routes,
            leaves,
            log: log.clone(),
            network,
            tasks: Default::default(),
            requests,
            ending,
            cut: watch::Sender::new(false),
        };
        server::serve(Arc::new(proxy), listener).await
    });
    let finished = log.finish();
    served?;
    finished.map_err(|e| e.to_string())
}

/// Writes reports for the orchestrator to standard output.
async fn write_reports(mut reports: UnboundedReceiver<EgressReport>) {
    while let Some(report) = reports.recv().await {
        let Ok(line) = serde_json::to_string(&report) else { continue };
        // If nobody reads it there is no new token either, and its request goes on without.
        let _ = report::line(&line);
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

// supervise still uses the old name.
pub(crate) fn bind(path: &std::path::Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    let (listener, file) = socket::bind(path).map_err(std::io::Error::other)?;
    std::mem::forget(file);
    Ok(listener)
}
