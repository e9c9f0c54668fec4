//! One bottle's directory: its lock, its metadata, and the paths of its files.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use serde::{Deserialize, Serialize};

use super::journal::Journal;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::{free_mib, private_dir, write_private};
use crate::host::lock::{Flock, Mode, Refused, try_lock};

/// How long a launch waits for a lock that `bottle list` may hold for a moment.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);
/// Least space that a launch needs on the state directory's file system, MiB.
const MIN_FREE_MIB: u64 = 64;

/// The paths of one bottle.
#[derive(Debug, Clone)]
pub struct BottleDir {
    slug: String,
    state: Utf8PathBuf,
    runtime: Utf8PathBuf,
}

/// The phase of a bottle's life, as its orchestrator last wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being brought up.
    Starting,
    /// Self-tested and provisioned; the agent runs or can be run.
    Running,
    /// Ended and torn down.
    Exited,
    /// Its orchestrator died; somebody else tore it down.
    Crashed,
}

/// Facts about a bottle that are on disk, so nobody has to ask its orchestrator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Metadata {
    /// Format version, 1.
    pub version: u32,
    /// The bottle's name.
    pub slug: String,
    /// The agent it runs.
    pub agent: String,
    /// The engine it runs on.
    pub engine: String,
    /// Its phase when this was written.
    pub phase: Phase,
    /// The orchestrator's process id.
    pub pid: u32,
    /// When the launch began, ms since the epoch.
    pub started_ms: u64,
    /// When it ended, ms since the epoch.
    pub ended_ms: Option<u64>,
    /// The agent's exit code, if the agent has ended.
    pub exit_code: Option<u8>,
    /// Digest of the policy it was launched with.
    pub policy_digest: String,
    /// The directory of its sockets: not every command has the same XDG_RUNTIME_DIR.
    pub runtime: Utf8PathBuf,
}

/// A bottle's directory and whether somebody holds its lock.
#[derive(Debug)]
pub struct BottleStatus {
    /// The metadata as last written.
    pub metadata: Metadata,
    /// Whether an orchestrator is alive and holds its lock.
    pub alive: bool,
}

/// Milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl Metadata {
    /// Metadata of a launch that begins now in this process.
    #[must_use]
    pub fn starting(dir: &BottleDir, agent: &str, engine: &str, policy_digest: &str) -> Self {
        Self {
            version: 1,
            slug: dir.slug.clone(),
            runtime: dir.runtime.clone(),
            agent: agent.to_owned(),
            engine: engine.to_owned(),
            phase: Phase::Starting,
            pid: std::process::id(),
            started_ms: now_ms(),
            ended_ms: None,
            exit_code: None,
            policy_digest: policy_digest.to_owned(),
        }
    }

    /// The same bottle, ended now.
    #[must_use]
    pub fn ended(mut self, phase: Phase, exit_code: Option<u8>) -> Self {
        self.phase = phase;
        self.ended_ms = Some(now_ms());
        self.exit_code = exit_code;
        self
    }
}

impl BottleDir {
    pub(super) fn new(slug: String, state: Utf8PathBuf, runtime: Utf8PathBuf) -> Self {
        Self { slug, state, runtime }
    }

    /// The bottle's name.
    #[must_use]
    pub fn slug(&self) -> &str {
        &self.slug
    }

    /// The directory of sockets and the policy file while the bottle runs.
    #[must_use]
    pub fn runtime(&self) -> &Utf8Path {
        &self.runtime
    }

    /// The socket on which this bottle's orchestrator listens for `bottle exec` and others.
    #[must_use]
    pub fn control_socket(&self) -> Utf8PathBuf {
        self.runtime.join("control.sock")
    }

    /// The control socket that its orchestrator recorded, for a client to connect to.
    #[must_use]
    pub fn recorded_control_socket(&self) -> Utf8PathBuf {
        self.read_metadata()
            .map_or_else(|| self.control_socket(), |m| m.runtime.join("control.sock"))
    }

    /// The socket of the daemon `name`.
    #[must_use]
    pub fn daemon_socket(&self, name: &str) -> Utf8PathBuf {
        self.runtime.join(format!("{name}.sock"))
    }

    /// The writable disk.
    #[must_use]
    pub fn disk(&self) -> Utf8PathBuf {
        self.state.join("disk.img")
    }

    /// The hash-chained audit log, which outlives the launch.
    #[must_use]
    pub fn audit(&self) -> Utf8PathBuf {
        self.state.join("audit.jsonl")
    }

    /// git-gate's audit log: each daemon has its own chain.
    #[must_use]
    pub fn git_audit(&self) -> Utf8PathBuf {
        self.state.join("git-audit.jsonl")
    }

    /// The audit log of proposals and decisions, which the orchestrator writes.
    #[must_use]
    pub fn supervise_audit(&self) -> Utf8PathBuf {
        self.state.join("supervise-audit.jsonl")
    }

    /// The proposals, one file each.
    #[must_use]
    pub fn proposals(&self) -> Utf8PathBuf {
        self.state.join("proposals")
    }

    /// All audit logs that exist, and always egress's.
    #[must_use]
    pub fn audits(&self) -> Vec<Utf8PathBuf> {
        let others = [self.git_audit(), self.supervise_audit()];
        std::iter::once(self.audit()).chain(others.into_iter().filter(|log| log.exists())).collect()
    }

    /// Mirrors of git upstreams.
    #[must_use]
    pub fn git(&self) -> Utf8PathBuf {
        self.state.join("git")
    }

    /// Deploy keys of this bottle that a forge may know; there is no file when there are none.
    #[must_use]
    pub fn deploy_keys(&self) -> Utf8PathBuf {
        self.state.join("deploy-keys.json")
    }

    /// The disk of a bottle that was stopped in order and can be resumed.
    #[must_use]
    pub fn resumable_disk(&self) -> Utf8PathBuf {
        self.state.join("saved.img")
    }

    /// The list of project files that went into the bottle.
    #[must_use]
    pub fn workspace(&self) -> Utf8PathBuf {
        self.state.join("workspace.json")
    }

    /// The agent's work as tar, after the launch has ended and until it is pulled. It is hostile.
    #[must_use]
    pub fn unpulled_tar(&self) -> Utf8PathBuf {
        self.state.join("work.tar")
    }

    /// Exists when the agent's work could not be saved and is only on [`Self::resumable_disk`].
    #[must_use]
    pub fn unsaved(&self) -> Utf8PathBuf {
        self.state.join("work.unsaved")
    }

    /// The plan of the latest launch.
    #[must_use]
    pub fn plan(&self) -> Utf8PathBuf {
        self.state.join("plan.json")
    }

    /// The standard error of the daemon or engine `name` in the latest launch.
    #[must_use]
    pub fn log(&self, name: &str) -> Utf8PathBuf {
        self.state.join(format!("{name}.log"))
    }

    /// The launch journal.
    #[must_use]
    pub fn journal(&self) -> Utf8PathBuf {
        self.state.join("journal.jsonl")
    }

    fn metadata_file(&self) -> Utf8PathBuf {
        self.state.join("metadata.json")
    }

    /// Creates the directory and takes its lock, which is held until the returned value is dropped
    /// (or its process dies).
    ///
    /// # Errors
    /// `Usage` when an orchestrator has it already, `Io` when it cannot be created.
    pub fn lock(&self) -> Result<Lock> {
        private_dir(&self.state)?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            let Some(lock) = self.try_lock(Mode::Exclusive)? else {
                // `bottle list` takes a shared lock for a moment.
                if Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                }
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("bottle {:?} is running already", self.slug),
                )
                .hint(format!(
                    "bottle stop {0}   # or launch a second one with --name {0}-2",
                    self.slug
                )));
            };
            // `bottle rm` may have removed the directory between our open and our lock. Then we
            // hold the lock of a deleted file.
            let on_disk = fs::metadata(self.state.join("lock")).map(|m| m.ino()).ok();
            if on_disk == lock.0.metadata().map(|m| m.ino()).ok() {
                return Ok(lock);
            }
            private_dir(&self.state)?;
        }
    }

    /// The lock if it is free; `None` when an orchestrator holds it.
    fn try_lock(&self, mode: Mode) -> Result<Option<Lock>> {
        let path = self.state.join("lock");
        let mut options = fs::OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        match try_lock(options.open(&path)?.into_file(), mode) {
            Ok(lock) => Ok(Some(Lock(lock))),
            Err(Refused::Held(_)) => Ok(None),
            Err(Refused::Failed(e)) => {
                Err(e).context(ErrorKind::Io, || format!("cannot lock {path}"))
            }
        }
    }

    /// The lock, if no orchestrator holds it.
    ///
    /// # Errors
    /// `Io` when the lock cannot be opened.
    pub fn unowned(&self) -> Result<Option<Lock>> {
        self.try_lock(Mode::Exclusive)
    }

    /// Checks that there is space for a launch before anything starts. (The disk itself is sparse; a
    /// guest that fills the host's file system gets an I/O error later.)
    ///
    /// # Errors
    /// `Config` when less than 64 MiB are free.
    pub fn require_space(&self) -> Result<()> {
        let free_mib = free_mib(&self.state)?;
        if free_mib < MIN_FREE_MIB {
            return Err(Error::new(
                ErrorKind::Config,
                format!("only {free_mib} MiB are free for {}", self.state),
            )
            .hint(
                "bottle list; bottle rm NAME   # or export XDG_STATE_HOME=/somewhere/with/room",
            ));
        }
        Ok(())
    }

    /// Writes the metadata atomically.
    ///
    /// # Errors
    /// `Io` when it cannot be written.
    pub fn write_metadata(&self, metadata: &Metadata) -> Result<()> {
        let json = serde_json::to_vec_pretty(metadata)
            .context(ErrorKind::Internal, || "cannot write metadata".into())?;
        write_private(self.metadata_file(), &json)
    }

    /// Metadata and liveness; `None` when there is no such bottle (or its metadata is unreadable).
    #[must_use]
    pub fn status(&self) -> Option<BottleStatus> {
        let metadata = self.read_metadata()?;
        let alive =
            self.state.join("lock").exists() && matches!(self.try_lock(Mode::Shared), Ok(None));
        Some(BottleStatus { metadata, alive })
    }

    /// Tears down what a dead orchestrator left behind, and returns whether there was anything. Does
    /// nothing while an orchestrator is alive.
    ///
    /// # Errors
    /// Some step could not be undone. The journal is kept then, so that the next command retries.
    pub fn recover(&self) -> Result<bool> {
        if !self.journal().exists() {
            return Ok(false);
        }
        let Some(_lock) = self.try_lock(Mode::Exclusive)? else { return Ok(false) };
        if !self.journal().exists() {
            return Ok(false);
        }
        Journal::unwind(&self.journal())?;
        if let Some(status) = self.read_metadata() {
            self.write_metadata(&status.ended(Phase::Crashed, None))?;
        }
        Ok(true)
    }

    fn read_metadata(&self) -> Option<Metadata> {
        serde_json::from_slice(&fs::read(self.metadata_file()).ok()?).ok()
    }

    /// Removes all files of a bottle that is not running.
    ///
    /// # Errors
    /// `Usage` when it runs or does not exist.
    pub fn remove(&self) -> Result<()> {
        if !self.state.exists() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("there is no bottle {:?}", self.slug),
            )
            .hint("bottle list"));
        }
        let _lock = self.lock()?;
        if self.journal().exists() && Journal::unwind(&self.journal()).is_err() {
            // The journal cannot be read or undone: at least files with a fixed path are removed.
            let _ = fs::remove_dir_all(&self.runtime);
        }
        Ok(fs::remove_dir_all(&self.state)?)
    }
}

/// The lock of a bottle: the right to bring it up or tear it down.
#[derive(Debug)]
pub struct Lock(Flock<File>);
