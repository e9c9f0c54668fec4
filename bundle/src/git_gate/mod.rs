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
//! Every child process is started by [`exec`]. [`audit`] writes the audit lines, [`reload`] puts
//! other rules in force, and [`shared`] is what all requests share.

pub mod audit;
pub mod body;
pub mod exec;
pub mod fetch;
pub mod helper;
pub mod object_id;
pub mod pkt_line;
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
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{GateInput, UpstreamName};
use bottle_scan::Profile;
use tokio::sync::{Semaphore, watch};

use crate::confine::{self, Network};
use crate::lifeline;
use crate::watch::Watch;

use push::upstream::Upstream;
use setup::{ProgramArgs, StateDirs};
use shared::{Limits, Shared};

/// Most memory that the daemon and each of its children may write to, in bytes.
const MAX_MEMORY: u64 = 2 << 30;

/// Arguments of the daemon.
#[derive(Debug)]
pub struct Args {
    /// Socket to listen on; its directory is the bottle's own.
    pub socket: PathBuf,
    /// The policy, JSON.
    pub policy: PathBuf,
    /// The audit log, which is appended to.
    pub audit: PathBuf,
    /// Directory of mirrors and quarantines, the bottle's own.
    pub state: PathBuf,
    /// The bottle's name, for this daemon's log.
    pub slug: Option<String>,
    /// git.
    pub git: PathBuf,
    /// OpenSSH's client.
    pub ssh: Option<PathBuf>,
    /// gitleaks.
    pub gitleaks: Option<PathBuf>,
    /// Directories of those programs' libraries, in addition to the system's.
    pub libs: Vec<PathBuf>,
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
    let mut policy = reload::read(&args.policy)?;
    let log = Arc::new(AuditWriter::open(&args.audit, audit::DAEMON).map_err(|e| e.to_string())?);
    let listener = bind(&args.socket).map_err(at(&args.socket))?;
    let _unlink = Unlink(args.socket.clone());

    let mut lines = lifeline::Lines::new();
    let line = lines.next_line().map_err(|e| e.to_string())?;
    // serde's message could quote a value, so only the column is shown.
    let input: GateInput = serde_json::from_slice(&line)
        .map_err(|e| format!("standard input is not valid (column {})", e.column()))?;
    drop(line);

    let dirs = StateDirs::new(&args.state, parent(&args.socket)).map_err(at(&args.state))?;
    let program_args = ProgramArgs {
        git: &args.git,
        ssh: args.ssh.as_deref(),
        gitleaks: args.gitleaks.as_deref(),
        libs: &args.libs,
    };
    let programs = Arc::new(setup::programs(&program_args, &dirs)?);
    let upstreams = setup::upstreams(&policy, &input, &dirs, &programs)
        .map_err(|e| format!("{}: {e}", args.policy.display()))?;
    let profiles = setup::profiles(input)?;

    let agent = upstreams.values().any(|u| u.mirror.remote.needs_agent());
    let grants = setup::grants(parent(&args.policy), &args.audit, &dirs, &programs, &upstreams);
    // The filter is inherited by the children; each of them has a narrower one of its own.
    let network = if agent { Network::Unrestricted } else { Network::Outgoing };
    let report = confine::seal(&grants, network, true).map_err(|e| e.to_string())?;
    tracing::info!(bottle = args.slug.as_deref().unwrap_or("-"), "git-gate: {report}");
    if programs.gitleaks.is_none() {
        tracing::warn!("there is no gitleaks: pushes are scanned only by our own rules");
    }

    // Threads start here, after the seal, and so inherit it. Children are tied to the thread that
    // starts them: never start one from a blocking task, whose thread ends when it is idle.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let served = runtime.block_on(async {
        let ending = lines.listen(|_| tracing::error!("standard input: there are no commands"))?;
        let (watched, reload_log) = (upstreams.clone(), log.clone());
        watch.run(move |path| reload::apply(path, &mut policy, &watched, &reload_log))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        upstreams.values().for_each(|u| u.mirror.remote.serve_agent());
        println!("ready");
        io::stdout().flush()?;
        let server = server(upstreams, log.clone(), profiles, ending);
        // On a worker thread, for the children's sake.
        tokio::spawn(server.serve(listener)).await.map_err(io::Error::other)?
    });
    // Requests that are still open are dropped here and write their audit lines.
    runtime.shutdown_timeout(Duration::from_millis(200));
    let finished = log.finish();
    served.map_err(|e| e.to_string())?;
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

fn own_limits() {
    use nix::sys::resource::{Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_DATA, MAX_MEMORY, MAX_MEMORY);
}

/// Listens at `path`, mode 0600. A socket that nobody answers any more is replaced.
fn bind(path: &Path) -> io::Result<UnixListener> {
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

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
