//! `bottle-bundle supervise`: how an agent asks. An MCP server on the bottle's socket.
//!
//! A request passes [`http`] (HTTP, limits), the SDK (JSON-RPC), [`tools`] (what can be asked,
//! typed) and [`orchestrator`] (standard output to the orchestrator, which keeps the queue and decides
//! nothing by itself). [`denials`] reads what the other daemons refused. The daemon writes no file
//! and opens no socket: whoever takes it over can ask, and read what the bottle may reach.

pub mod checks;
pub mod denials;
pub mod http;
pub mod orchestrator;
pub mod tools;

#[cfg(test)]
mod attacks;

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{GatePolicy, Policy};

use crate::confine::{self, Grants, Network};
use crate::{egress, lifeline};

/// Times and numbers that bound what a guest can hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from the guest at once; more wait.
    pub connections: usize,
    /// Calls that wait for a decision at once; more are answered at once.
    pub waiting: usize,
    /// Longest wait for a decision: the agents' own clients give up after 60 s.
    pub wait: Duration,
    /// For a head, and for a connection without a request.
    pub head: Duration,
    /// For a body.
    pub body: Duration,
    /// Largest body, bytes.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            waiting: 16,
            wait: Duration::from_secs(50),
            head: Duration::from_secs(60),
            body: Duration::from_secs(20),
            body_bytes: 64 << 10,
        }
    }
}

/// Arguments of the daemon.
#[derive(Debug, Clone)]
pub struct Args {
    /// Socket to listen at.
    pub socket: PathBuf,
    /// egress' policy, JSON; read anew for every answer.
    pub policy: PathBuf,
    /// git-gate's, if there is one.
    pub git_policy: Option<PathBuf>,
    /// Audit logs of the other daemons.
    pub audits: Vec<PathBuf>,
    /// The bottle's name, for this daemon's log.
    pub slug: Option<String>,
}

/// Most memory that the daemon may ever write to, bytes.
const MEMORY: u64 = 256 << 20;
/// Largest policy file, bytes.
const POLICY: u64 = 4 << 20;

/// Runs the daemon until its standard input ends or it is told to stop. [`confine::begin`] has run.
///
/// # Errors
/// One line that says what could not be started.
pub fn run(args: &Args) -> Result<(), String> {
    use nix::sys::resource::{Resource, setrlimit};
    // A backstop: whatever a guest finds to make this daemon grow ends the daemon, not the host.
    let _ = setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY);
    let listener =
        egress::bind(&args.socket).map_err(|e| format!("{}: {e}", args.socket.display()))?;
    let mut lines = lifeline::Lines::new();
    lines.next_line().map_err(|e| e.to_string())?; // nothing is handed over, but the pipe is there
    let report =
        confine::seal(&grants(args), Network::Nothing, false).map_err(|e| e.to_string())?;
    tracing::info!(bottle = args.slug.as_deref().unwrap_or("-"), "supervise: {report}");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let served = runtime.block_on(async {
        let limits = Limits::default();
        let (line, reports) = orchestrator::Line::new(limits.waiting, limits.wait);
        let line = Arc::new(line);
        let told = line.clone();
        let ending = lines.listen(move |text| told.told(text))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        println!("ready");
        io::stdout().flush()?;
        tokio::spawn(orchestrator::report(reports));
        let tools = tools::Tools::new(args.clone(), line);
        http::serve(http::Door::new(tools, limits), listener, ending).await
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    served.map_err(|e: io::Error| e.to_string())
}

/// The policy directory and the logs, to read.
fn grants(args: &Args) -> Grants {
    let dir = args.policy.parent().unwrap_or(Path::new("."));
    let ro = std::iter::once(dir.to_owned()).chain(args.audits.iter().cloned()).collect();
    Grants { ro, rx: Vec::new(), rw: Vec::new(), skip_missing: true }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let said = |e: io::Error| format!("the policy cannot be read: {e}");
    File::open(path).map_err(said)?.take(POLICY).read_to_end(&mut text).map_err(said)?;
    Ok(text)
}

impl Args {
    /// What egress has in force.
    ///
    /// # Errors
    /// One line.
    pub fn routes(&self) -> Result<Policy, String> {
        Policy::from_json(&read(&self.policy)?).map_err(|e| e.to_string())
    }

    /// What git-gate has, if there is one.
    ///
    /// # Errors
    /// One line.
    pub fn repositories(&self) -> Result<Option<GatePolicy>, String> {
        self.git_policy
            .as_ref()
            .map(|path| GatePolicy::from_json(&read(path)?).map_err(|e| e.to_string()))
            .transpose()
    }
}
