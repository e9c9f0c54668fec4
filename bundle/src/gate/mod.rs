//! `bottle-bundle git-gate`: a bottle's git, on the host, with the keys.
//!
//! A request passes [`server`] (HTTP, limits) and [`request`] (which of four it is). A fetch brings
//! the [`repo`]'s mirror up to date over its [`remote`] ([`agent`] for keys that are in memory
//! only), then `git upload-pack` answers, through [`body`]; the [`first`] of all is passed on while
//! it arrives. A [`push`] passes [`commands`] ([`pkt`]) and [`refs`] before a byte of its pack is
//! read; the pack goes into a quarantine by `git index-pack --strict`, [`walk`] lists what is new,
//! [`scan`] looks at every new object ([`leaks`], [`paths`]), `git push` forwards it, with an
//! [`attest`] note signed by a [`key`] where that is asked for, and only when the upstream has it
//! the mirror takes it. Every child is a [`call`]. [`ticket`] writes the audit lines, [`reload`]
//! puts other rules in force.

pub mod agent;
pub mod attest;
pub mod body;
pub mod call;
pub mod commands;
pub mod first;
pub mod key;
pub mod leaks;
pub mod paths;
pub mod pkt;
pub mod push;
pub mod refs;
pub mod refusal;
pub mod reload;
pub mod remote;
pub mod repo;
pub mod request;
pub mod scan;
pub mod server;
pub mod ticket;
pub mod walk;

#[cfg(test)]
mod attacks;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{Action, GateInput, GatePolicy, Scan, Secret, TokenName, UpstreamName};
use bottle_scan::Scanner;

use crate::confine::{self, Grants, Network};
use crate::lifeline;
use crate::watch::Watch;

use attest::Attestor;
use call::Programs;
use key::Key;
use remote::Remote;
use repo::{Repo, Rules, private_dir};

/// Times and numbers that bound what a guest can hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from the guest at once; more wait.
    pub connections: usize,
    /// Fetches and pushes on their way at once; more wait.
    pub requests: usize,
    /// For a head, and for a connection without a request.
    pub head: Duration,
    /// Without a byte inside a request.
    pub silence: Duration,
    /// Largest request of a fetch, decoded, bytes.
    pub wants: u64,
    /// For what is under way when the daemon ends.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            requests: 16,
            head: Duration::from_secs(60),
            silence: Duration::from_secs(120),
            wants: 64 << 20,
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
    /// Directories of those programs' libraries, beside the usual ones.
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
    let watch = Watch::new(&args.policy)?;
    let policy = reload::read(&args.policy)?;
    let in_policy = |e: &dyn std::fmt::Display| format!("{}: {e}", args.policy.display());
    let log = Arc::new(AuditWriter::open(&args.audit, ticket::DAEMON).map_err(|e| e.to_string())?);
    let listener = bind(&args.socket).map_err(at(&args.socket))?;
    let _unlink = Unlink(args.socket.clone());

    let mut lines = lifeline::Lines::new();
    let line = lines.next_line().map_err(|e| e.to_string())?;
    // serde's message could quote a value: say only where.
    let input: GateInput = serde_json::from_slice(&line)
        .map_err(|e| format!("standard input is no gate input (column {})", e.column()))?;
    drop(line);

    private_dir(&args.state).map_err(at(&args.state))?;
    let state = args.state.canonicalize().map_err(at(&args.state))?;
    let programs = Arc::new(programs(args, &state)?);
    let bin = helpers(&state, &programs).map_err(at(&state))?;
    let run = parent(&args.socket).canonicalize().map_err(at(&args.socket))?;
    let mut in_force = policy.clone();
    let repos =
        repos(policy, &input, (&state, &bin, &run), &programs).map_err(|e| in_policy(&e))?;
    let mut known: Vec<(TokenName, Secret)> =
        input.tokens.into_iter().chain(input.secrets).collect();
    let parts: Vec<_> = known
        .iter()
        .flat_map(|(name, value)| key_lines(value).map(|line| (name.clone(), line)))
        .collect();
    known.extend(parts);
    let scanner = Scanner::new(&known);
    drop(known);
    let profile =
        |limit| scanner.profile(&Scan { limit, ..Scan::default() }).map_err(|e| e.to_string());
    let (profile, secrets) = (profile(Some(Action::Warn))?, profile(None)?);

    let agent = repos.values().any(|r| r.remote.needs_agent());
    let grants = grants(args, &state, &run, &programs, &repos);
    // A filter is for the children as well; each of them has a narrower one of its own.
    let network = if agent { Network::Unrestricted } else { Network::Outgoing };
    let report = confine::seal(&grants, network, true).map_err(|e| e.to_string())?;
    let slug = args.slug.as_deref().unwrap_or("-");
    tracing::info!(bottle = slug, "git-gate: {report}");
    if programs.gitleaks.is_none() {
        tracing::warn!("no gitleaks: pushes are searched by our own rules only");
    }

    // Threads start here, after the seal, and so inherit it. Children are tied to the thread that
    // starts them: never from a blocking task, whose thread ends when it is idle.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let served = runtime.block_on(async {
        let ending = lines.listen(|_| tracing::error!("standard input: no command is known"))?;
        let (rules, said) = (repos.clone(), log.clone());
        watch.run(move |path| reload::apply(path, &mut in_force, &rules, &said))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        repos.values().for_each(|r| r.remote.serve_agent());
        println!("ready");
        io::stdout().flush()?;
        let limits = Limits::default();
        let requests = Arc::new(tokio::sync::Semaphore::new(limits.requests));
        let (log, guards, tasks, warm) =
            (log.clone(), refusal::Guards::default(), Default::default(), Default::default());
        let gate = Arc::new(server::Gate {
            repos,
            log,
            profile,
            secrets,
            limits,
            guards,
            tasks,
            warm,
            requests,
            ending,
        });
        // On a worker, for its children's sake.
        tokio::spawn(server::serve(gate, listener)).await.map_err(io::Error::other)?
    });
    // What even now is open writes its lines as it is dropped here.
    runtime.shutdown_timeout(Duration::from_millis(200));
    let finished = log.finish();
    served.map_err(|e| e.to_string())?;
    finished.map_err(|e| e.to_string())
}

/// The lines of a key that tell something: each is looked for by itself, too.
fn key_lines(value: &Secret) -> impl Iterator<Item = Secret> {
    // What every unencrypted OpenSSH key begins with tells nothing.
    let telling = |line: &&str| {
        line.len() >= 24 && !line.starts_with("-----") && !line.starts_with("b3BlbnNzaC1rZXktdj")
    };
    let text = value.expose();
    let lines = text.contains('\n').then(|| {
        text.lines().map(str::trim).filter(telling).map(|line| Secret::new(line.to_owned()))
    });
    lines.into_iter().flatten().collect::<Vec<_>>().into_iter()
}

/// Most memory that the daemon and each of its children may write to, bytes.
const MEMORY: u64 = 2 << 30;

fn own_limits() {
    use nix::sys::resource::{Resource, setrlimit};
    // A backstop: whatever a guest finds to make git grow ends that git, not the host.
    let _ = setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY);
}

fn programs(args: &Args, state: &Path) -> Result<Programs, String> {
    let real = |path: &Path| path.canonicalize().map_err(|e| format!("{}: {e}", path.display()));
    let git = real(&args.git)?;
    // git of a store path says where its programs were before it was moved there.
    let beside =
        git.parent().and_then(Path::parent).map(|p| p.join("lib/git-core")).filter(|p| p.is_dir());
    let said = std::process::Command::new(&git)
        .arg("--exec-path")
        .env_clear()
        .output()
        .map_err(|e| format!("{}: {e}", git.display()))?;
    let exec_path =
        beside.unwrap_or_else(|| PathBuf::from(String::from_utf8_lossy(&said.stdout).trim()));
    if !exec_path.is_absolute() || !exec_path.is_dir() {
        return Err(format!(
            "{}: it does not say where its programs are (git --exec-path)",
            git.display()
        ));
    }
    let home = state.join("home");
    private_dir(&home).map_err(|e| format!("{}: {e}", home.display()))?;
    Ok(Programs {
        git,
        exec_path,
        ssh: args.ssh.as_deref().map(real).transpose()?,
        gitleaks: args.gitleaks.as_deref().map(real).transpose()?,
        launcher: Some(std::env::current_exe().map_err(|e| e.to_string())?),
        libs: args.libs.clone(),
        home,
    })
}

/// Names this program as the helpers that git starts.
fn helpers(state: &Path, programs: &Programs) -> io::Result<PathBuf> {
    let bin = state.join("bin");
    private_dir(&bin)?;
    for name in remote::HELPERS {
        let link = bin.join(name);
        match fs::remove_file(&link) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        if let Some(me) = &programs.launcher {
            std::os::unix::fs::symlink(me, &link)?;
        }
    }
    Ok(bin)
}

fn repos(
    policy: GatePolicy,
    input: &GateInput,
    (state, bin, run): (&Path, &Path, &Path),
    programs: &Arc<Programs>,
) -> Result<BTreeMap<UpstreamName, Arc<Repo>>, String> {
    if policy.version != 1 {
        return Err(format!(
            "policy version {} is not known to this program (it knows 1)",
            policy.version
        ));
    }
    let digest = policy.digest();
    let (mut all, mut folded) = (BTreeMap::new(), HashSet::new());
    for upstream in policy.upstreams {
        let name = upstream.name.clone();
        let of = |e: &dyn std::fmt::Display| format!("upstream {name}: {e}");
        if !folded.insert(name.to_string().to_lowercase()) {
            return Err(of(&"two upstreams have this name"));
        }
        let dir = state.join("repos").join(name.to_string());
        let way = dir.join("way");
        private_dir(&way).map_err(|e| of(&e))?;
        let remote = Remote::new(&upstream, &input.tokens, (&way, bin, run), programs)
            .map_err(|e| of(&e))?;
        let rules = Rules::new(&upstream, (&policy.agent, &policy.slug), digest.clone())
            .map_err(|e| of(&e))?;
        let attestor = match &upstream.attest {
            Some(key) => {
                let pem =
                    input.tokens.get(key).ok_or_else(|| of(&format!("there is no key {key}")))?;
                let key = Key::read(pem).map_err(|e| of(&format!("attest: key {key}: {e}")))?;
                Some(Attestor::new(key, &policy.agent, &policy.slug))
            }
            None => None,
        };
        let repo = Repo::new(upstream, (rules, attestor), dir, remote, programs.clone())
            .map_err(|e| of(&e))?;
        all.insert(name, Arc::new(repo));
    }
    Ok(all)
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

/// What the gate and its children read and write after the start; each child gets a part of it.
fn grants(
    args: &Args,
    state: &Path,
    run: &Path,
    programs: &Programs,
    repos: &BTreeMap<UpstreamName, Arc<Repo>>,
) -> Grants {
    let mut ro: Vec<PathBuf> = call::SYSTEM.iter().map(PathBuf::from).collect();
    ro.extend(["/dev/urandom", "/dev/random", "/proc/self", "/etc/ld.so.cache"].map(PathBuf::from));
    ro.push(parent(&args.policy).to_owned()); // it is replaced by a rename
    ro.extend(repos.values().flat_map(|r| r.remote.files().to_vec()));
    let mut rw = vec![args.audit.clone(), run.to_owned(), state.to_owned()];
    rw.extend(["/dev/null", "/dev/zero"].map(PathBuf::from));
    Grants { ro, rx: programs.files(), rw, skip_missing: true }
}
