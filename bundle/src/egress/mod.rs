//! `bottle-bundle egress`: the one way out of a bottle.
//!
//! A request passes, in this order: [`wire`] (one reading of its bytes), [`authority`] and
//! [`routes`] at CONNECT, [`connect`] (TLS for that host, by a certificate of [`tls`]) or
//! [`passthrough`] ([`hello`], and nothing more), [`wire`] again inside the tunnel, or HTTP/2,
//! [`proxy`] (Host, [`path`], method, route, `bottle_scan` over what it says), [`spend`] (budget,
//! rate), [`headers`] (credential, by [`tokens`]), [`upstream`] ([`resolve`], [`address`], verified
//! TLS), [`body`] or [`websocket`] ([`frames`]) as its content streams, and [`ticket`] writes an
//! audit line before its first byte leaves and another when the last byte of the answer has passed.
//! [`reload`] puts another policy in force.

pub mod address;
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
pub mod ticket;
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

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{EgressInput, EgressReport};

use crate::confine::{self, Grants};
use crate::lifeline;
use crate::watch::Watch;

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

/// Arguments of the daemon.
#[derive(Debug)]
pub struct Args {
    /// Socket to listen at; its directory is the bottle's own.
    pub socket: PathBuf,
    /// The policy, JSON.
    pub policy: PathBuf,
    /// The audit log, appended to.
    pub audit: PathBuf,
    /// The bottle's name, for this daemon's log.
    pub slug: Option<String>,
}

/// Runs the daemon until its standard input ends or it is told to stop. [`confine::begin`] has run.
///
/// # Errors
/// One line that says what could not be started.
pub fn run(args: &Args) -> Result<(), String> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |e: io::Error| format!("{path}: {e}")
    };
    own_limits();
    // Watched before it is read, so that no change is missed.
    let watch = Watch::new(&args.policy).map_err(at(&args.policy))?;
    let policy = reload::read(&args.policy)?;
    let log = Arc::new(AuditWriter::open(&args.audit, "egress").map_err(|e| e.to_string())?);
    let listener = bind(&args.socket).map_err(at(&args.socket))?;
    let _unlink = Unlink(args.socket.clone());

    let mut lines = lifeline::Lines::new();
    let line = lines.next_line().map_err(|e| e.to_string())?;
    // serde's message could quote a value: say only where.
    let input: EgressInput = serde_json::from_slice(&line)
        .map_err(|e| format!("standard input is no egress input (column {})", e.column()))?;
    drop(line);
    let network = Arc::new(upstream::Network::default());
    let leaves = tls::Leaves::new(&input.ca_cert, &input.ca_key).map_err(|e| e.to_string())?;
    let (ask, asks) = tokio::sync::mpsc::unbounded_channel();
    let tokens = Arc::new(tokens::Tokens::new(input.tokens, &input.refreshable, &ask));
    drop((input.ca_cert, input.ca_key, ask));
    let routes = routes::Live::new(policy, tokens, network.clone())
        .map_err(|e| format!("{}: {e}", args.policy.display()))?;
    let routes = Arc::new(routes);

    let report = confine::seal(&grants(args), confine::Network::Outgoing, false)
        .map_err(|e| e.to_string())?;
    let slug = args.slug.as_deref().unwrap_or("-");
    tracing::info!(bottle = slug, "egress: {report}");

    // Threads start here, after the seal, and so inherit it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let served = runtime.block_on(async {
        let told = routes.clone();
        let ending = lines.listen(move |line| match serde_json::from_slice(line) {
            Ok(command) => told.told(command),
            Err(e) => tracing::error!("standard input: no command (column {})", e.column()),
        })?;
        let (live, said) = (routes.clone(), log.clone());
        watch.run(move |path| reload::apply(path, &live, &said))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let roots = network.clone();
        tokio::task::spawn_blocking(move || roots.roots().len());
        println!("ready");
        io::stdout().flush()?;
        tokio::spawn(report_to(asks));
        let (tasks, cut) = (Default::default(), tokio::sync::watch::Sender::new(false));
        let log = log.clone();
        let requests = Arc::new(tokio::sync::Semaphore::new(network.limits.requests));
        server::serve(
            Arc::new(proxy::Proxy { routes, leaves, log, network, tasks, requests, ending, cut }),
            listener,
        )
        .await
    });
    // Requests that even now are open write their lines as they are dropped here.
    runtime.shutdown_timeout(Duration::from_millis(200));
    let finished = log.finish();
    served.map_err(|e| e.to_string())?;
    finished.map_err(|e| e.to_string())
}

/// Most memory that the daemon may ever write to, bytes.
const MEMORY: u64 = 2 << 30;

/// As many open files as the system lets a process ask for: each request has two.
fn own_limits() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What cannot be raised stays; then connections wait when files are out.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(4096)), hard);
    }
    // A backstop: whatever a guest finds to make this daemon grow ends the daemon, and with it the
    // way out, not the host.
    let _ = setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY);
}

/// Writes what the orchestrator is to know to standard output.
async fn report_to(mut reports: tokio::sync::mpsc::UnboundedReceiver<EgressReport>) {
    while let Some(report) = reports.recv().await {
        let Ok(mut line) = serde_json::to_string(&report) else { continue };
        line.push('\n');
        // Nobody there: then there is no new token either, and who waits for one goes on without.
        let _ = io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush());
    }
}

/// Listens at `path`, mode 0600. A socket that nobody answers any more is replaced.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() > 107 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "longer than the 107 bytes that a socket's path can have",
        ));
    }
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && UnixStream::connect(path).is_err() => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }?;
    // The umask 077 of confine::begin has made it private from its first moment.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What egress reads and writes after its start.
fn grants(args: &Args) -> Grants {
    let mut ro = confine::tls_client_files();
    let parent = |path: &Path| {
        path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    };
    // The policy is replaced by a rename, so its directory counts.
    ro.push(parent(&args.policy));
    let dir = parent(&args.socket);
    Grants { ro, rx: Vec::new(), rw: vec![args.audit.clone(), dir], skip_missing: true }
}
