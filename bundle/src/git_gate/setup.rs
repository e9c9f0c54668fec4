//! What the daemon prepares before it confines itself: its programs, the upstreams with their
//! credentials, the scanner's profiles, and what it may read and write from then on.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_policy::{
    Action, GateInput, GatePolicy, GateUpstream, Scan, Secret, TokenName, UpstreamName,
};
use bottle_scan::{Profile, Scanner};

use crate::confine::Grants;
use crate::git_gate::fetch::mirror::{Mirror, private_dir};
use crate::git_gate::helper::{ASKPASS_NAME, SSH_NAME};
use crate::git_gate::programs::{Programs, SYSTEM_FILES};
use crate::git_gate::push::attest::Attestor;
use crate::git_gate::push::upstream::{Upstream, UpstreamRules};
use crate::git_gate::remote::{Remote, RemoteDirs};
use crate::git_gate::ssh::key::Key;

/// The version of the policy format that this program reads.
const POLICY_VERSION: u32 = 1;
/// Lines of a key that are shorter than this, in bytes, are not secrets of their own.
const MIN_KEY_LINE_BYTES: usize = 24;
/// The start of every unencrypted OpenSSH key, in base64.
const OPENSSH_KEY_START: &str = "b3BlbnNzaC1rZXktdj";

/// The directories of the daemon's state.
#[derive(Debug)]
pub struct StateDirs {
    /// All of it.
    pub root: PathBuf,
    /// The links to the helpers.
    helpers: PathBuf,
    /// The directory of the daemon's socket, where agents' sockets go as well.
    pub run: PathBuf,
}

impl StateDirs {
    /// Creates `state`, with links that make this program git's helpers.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(state: &Path, run: &Path) -> io::Result<Self> {
        private_dir(state)?;
        let root = state.canonicalize()?;
        let helpers = root.join("bin");
        private_dir(&helpers)?;
        for name in [SSH_NAME, ASKPASS_NAME] {
            let link = helpers.join(name);
            match fs::remove_file(&link) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            std::os::unix::fs::symlink(std::env::current_exe()?, &link)?;
        }
        Ok(Self { helpers, run: run.canonicalize()?, root })
    }
}

/// Where the programs are.
#[derive(Debug, clap::Args)]
pub struct ProgramArgs {
    /// git's program.
    #[arg(long)]
    pub git: PathBuf,
    /// OpenSSH's client, for ssh upstreams.
    #[arg(long)]
    pub ssh: Option<PathBuf>,
    /// gitleaks; without it pushes are scanned only by our own rules.
    #[arg(long)]
    pub gitleaks: Option<PathBuf>,
    /// Directories of those programs' libraries, in addition to the system's.
    #[arg(long, num_args = 1.., value_name = "DIR")]
    pub lib: Vec<PathBuf>,
}

/// Resolves the programs, and finds git's own ones.
///
/// # Errors
/// One line: what does not exist, or that git does not tell where its programs are.
pub fn programs(args: &ProgramArgs, dirs: &StateDirs) -> Result<Programs, String> {
    let real = |path: &Path| path.canonicalize().map_err(|e| format!("{}: {e}", path.display()));
    let git = real(&args.git)?;
    // A git that was moved into a store path still prints where its programs were before.
    let beside =
        git.parent().and_then(Path::parent).map(|p| p.join("lib/git-core")).filter(|p| p.is_dir());
    let printed = std::process::Command::new(&git)
        .arg("--exec-path")
        .env_clear()
        .output()
        .map_err(|e| format!("{}: {e}", git.display()))?;
    let exec_path =
        beside.unwrap_or_else(|| PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim()));
    if !exec_path.is_absolute() || !exec_path.is_dir() {
        return Err(format!(
            "{}: it does not tell where its programs are (git --exec-path)",
            git.display()
        ));
    }
    let home = dirs.root.join("home");
    private_dir(&home).map_err(|e| format!("{}: {e}", home.display()))?;
    Ok(Programs {
        git,
        exec_path,
        ssh: args.ssh.as_deref().map(real).transpose()?,
        gitleaks: args.gitleaks.as_deref().map(real).transpose()?,
        launcher: Some(std::env::current_exe().map_err(|e| e.to_string())?),
        libs: args.lib.clone(),
        home,
    })
}

/// The upstreams of `policy`, with the credentials in `input`.
///
/// # Errors
/// One line: the upstream, and what is missing or does not fit together.
pub fn upstreams(
    policy: &GatePolicy,
    input: &GateInput,
    dirs: &StateDirs,
    programs: &Arc<Programs>,
) -> Result<BTreeMap<UpstreamName, Arc<Upstream>>, String> {
    if policy.version != POLICY_VERSION {
        return Err(format!(
            "policy version {} is not supported (only {POLICY_VERSION})",
            policy.version
        ));
    }
    let (mut all, mut folded) = (BTreeMap::new(), HashSet::new());
    for config in &policy.upstreams {
        let name = &config.name;
        let of = |e: String| format!("upstream {name}: {e}");
        if !folded.insert(name.to_string().to_lowercase()) {
            return Err(of("two upstreams have this name".to_owned()));
        }
        let upstream = upstream(policy, config, input, dirs, programs).map_err(of)?;
        all.insert(name.clone(), Arc::new(upstream));
    }
    Ok(all)
}

fn upstream(
    policy: &GatePolicy,
    config: &GateUpstream,
    input: &GateInput,
    dirs: &StateDirs,
    programs: &Arc<Programs>,
) -> Result<Upstream, String> {
    let dir = dirs.root.join("repos").join(config.name.to_string());
    let files = dir.join("way");
    private_dir(&files).map_err(|e| e.to_string())?;
    let remote_dirs = RemoteDirs { files: &files, helpers: &dirs.helpers, sockets: &dirs.run };
    let remote = Remote::new(config, &input.tokens, remote_dirs, programs)?;
    let rules = UpstreamRules::new(config, (&policy.agent, &policy.slug), policy.digest())
        .map_err(|e| e.to_string())?;
    let attestor = match &config.attest {
        Some(name) => {
            let pem = input.tokens.get(name).ok_or_else(|| format!("there is no key {name}"))?;
            let key = Key::read(pem).map_err(|e| format!("attest: key {name}: {e}"))?;
            Some(Attestor::new(key, &policy.agent, &policy.slug))
        }
        None => None,
    };
    let mirror = Mirror::new(config.clone(), dir, remote, programs.clone());
    Ok(Upstream::new(Arc::new(mirror.map_err(|e| e.to_string())?), rules, attestor))
}

/// The scanner's profile for pushed objects, which reports every finding, and the one for text of
/// the audit log.
///
/// # Errors
/// One line: a secret that the scanner cannot search for.
pub fn profiles(input: GateInput) -> Result<(Profile, Profile), String> {
    let mut known: Vec<(TokenName, Secret)> =
        input.tokens.into_iter().chain(input.secrets).collect();
    let lines: Vec<_> = known
        .iter()
        .flat_map(|(name, value)| key_lines(value).into_iter().map(|line| (name.clone(), line)))
        .collect();
    known.extend(lines);
    let scanner = Scanner::new(&known);
    let profile =
        |limit| scanner.profile(&Scan { limit, ..Scan::default() }).map_err(|e| e.to_string());
    Ok((profile(Some(Action::Warn))?, profile(None)?))
}

/// The lines of a key that are secrets of their own.
fn key_lines(value: &Secret) -> Vec<Secret> {
    let is_secret = |line: &&str| {
        line.len() >= MIN_KEY_LINE_BYTES
            && !line.starts_with("-----")
            && !line.starts_with(OPENSSH_KEY_START)
    };
    let text = value.expose();
    if !text.contains('\n') {
        return Vec::new();
    }
    text.lines().map(str::trim).filter(is_secret).map(|l| Secret::new(l.to_owned())).collect()
}

/// What the daemon and its children may read and write once it is confined. Each child gets only a
/// part of it. `policy_dir` is readable because the policy file is replaced by a rename.
#[must_use]
pub fn grants(
    policy_dir: &Path,
    audit: &Path,
    dirs: &StateDirs,
    programs: &Programs,
    upstreams: &BTreeMap<UpstreamName, Arc<Upstream>>,
) -> Grants {
    let mut ro: Vec<PathBuf> = SYSTEM_FILES.iter().map(PathBuf::from).collect();
    ro.extend(["/dev/urandom", "/dev/random", "/proc/self", "/etc/ld.so.cache"].map(PathBuf::from));
    ro.push(policy_dir.to_owned());
    ro.extend(upstreams.values().flat_map(|u| u.mirror.remote.files().to_vec()));
    let mut rw = vec![audit.to_owned(), dirs.run.clone(), dirs.root.clone()];
    rw.extend(["/dev/null", "/dev/zero"].map(PathBuf::from));
    Grants { ro, rx: programs.files(), rw, skip_missing: true }
}
