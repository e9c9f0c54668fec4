//! `bottle-bundle git-gate`: the git server of a bottle. It runs on the host and has the keys.
//!
//! A request passes [`server`] (HTTP, limits) and [`request`] (which of the four of smart HTTP it
//! is). A fetch brings the [`fetch::mirror`] up to date over its [`remote`], then [`fetch::serve`]
//! answers with `git upload-pack`, or with the [`fetch::initial_clone`] while that is in progress.
//!
//! A push passes [`push::receive`]: its [`push::head`] is parsed and decided on by
//! [`push::ref_policy`], its [`push::pack`] goes into a quarantine, [`push::revwalk`] lists what is
//! new, [`scan`] scans it, and [`push::forward`] sends it to the upstream, with a note of
//! [`push::attest`] if the policy asks for one. Only then does the mirror take it.
//!
//! [`exec`] starts every child process, of the [`programs`]. [`audit`] writes the audit lines, [`reload`] puts
//! other rules in force, and [`shared`] is what all requests share.

pub mod audit;
pub mod body;
pub mod exec;
pub mod fetch;
pub mod helper;
pub mod object_id;
pub mod pkt_line;
pub mod programs;
pub mod push;
pub mod refusal;
pub mod reload;
pub mod remote;
pub mod request;
pub mod scan;
pub mod server;
pub mod setup;
pub mod shared;
pub mod ssh;
pub mod text;

#[cfg(test)]
mod attacks;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{GateInput, UpstreamName};
use bottle_scan::Profile;
use tokio::sync::{Semaphore, watch};

use crate::confine::{self, Network};
use crate::daemon::args::DaemonArgs;
use crate::daemon::control_stdin::ControlStdin;
use crate::daemon::policy_file::PolicyWatch;
use crate::daemon::{limits, report, runtime, socket};

use push::upstream::Upstream;
use setup::{ProgramArgs, StateDirs};
use shared::{Limits, Shared};

/// Most memory that the daemon and each of its children may write to, in bytes.
const MAX_MEMORY_BYTES: u64 = 2 << 30;
/// Threads that serve requests.
const WORKERS: usize = 2;

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
    /// Directory of the mirrors and quarantines.
    #[arg(long)]
    pub state: PathBuf,
    /// The programs that it runs.
    #[command(flatten)]
    pub programs: ProgramArgs,
}

/// Runs the daemon until its standard input ends or it is told to stop. [`confine::begin`] has run.
///
/// # Errors
/// One line that says what could not be started.
pub fn run(args: &Args) -> Result<(), String> {
    limits::limit_memory(MAX_MEMORY_BYTES);
    // Watched before it is read, so that no change is missed.
    let policy_watch = PolicyWatch::new(&args.policy)?;
    let mut policy = reload::read(&args.policy)?;
    let log = Arc::new(AuditWriter::open(&args.audit, audit::DAEMON).map_err(|e| e.to_string())?);
    let (listener, _socket_file) = socket::bind(&args.daemon.socket)?;

    let mut stdin = ControlStdin::new();
    let input: GateInput = stdin.next_json("git-gate input")?;
    let dirs = StateDirs::new(&args.state, socket::directory(&args.daemon.socket))
        .map_err(|e| format!("{}: {e}", args.state.display()))?;
    let programs = Arc::new(setup::programs(&args.programs, &dirs)?);
    let upstreams = setup::upstreams(&policy, &input, &dirs, &programs)
        .map_err(|e| format!("{}: {e}", args.policy.display()))?;
    let profiles = setup::profiles(input)?;

    let agent = upstreams.values().any(|u| u.mirror.remote.needs_agent());
    let policy_dir = socket::directory(&args.policy);
    let grants = setup::grants(policy_dir, &args.audit, &dirs, &programs, &upstreams);
    // The filter is inherited by the children; each of them has a narrower one of its own.
    let network = if agent { Network::Unrestricted } else { Network::Outgoing };
    let confined = confine::seal(&grants, network, true).map_err(|e| e.to_string())?;
    tracing::info!(bottle = args.daemon.slug(), "git-gate: {confined}");
    if programs.gitleaks.is_none() {
        tracing::warn!("there is no gitleaks: pushes are scanned only by our own rules");
    }

    // Children are tied to the thread that starts them. Never start one from a blocking task: its
    // thread ends when it is idle.
    let served = runtime::run_with_workers(WORKERS, async {
        let ending = stdin.listen(|_| tracing::error!("standard input: there are no commands"))?;
        let (watched, reload_log) = (upstreams.clone(), log.clone());
        policy_watch.run(move |path| reload::apply(path, &mut policy, &watched, &reload_log))?;
        let listener = socket::to_async(listener)?;
        upstreams.values().for_each(|u| u.mirror.remote.serve_agent());
        report::ready()?;
        let server = server(upstreams, log.clone(), profiles, ending);
        // On a worker thread, for the children's sake.
        tokio::spawn(server.serve(listener)).await.map_err(io::Error::other)?
    });
    let finished = log.finish();
    served?;
    finished.map_err(|e| e.to_string())
}

fn server(
    upstreams: BTreeMap<UpstreamName, Arc<Upstream>>,
    log: Arc<AuditWriter>,
    (objects, secrets): (Profile, Profile),
    ending: watch::Receiver<bool>,
) -> Arc<server::Server> {
    let limits = Limits::default();
    let shared = Shared {
        log,
        objects,
        secrets,
        checks: refusal::Checks::default(),
        tasks: Default::default(),
        gitleaks: Default::default(),
        requests: Arc::new(Semaphore::new(limits.requests)),
        limits,
        ending,
    };
    Arc::new(server::Server { shared: Arc::new(shared), upstreams })
}
