//! The mirror of one upstream: a bare repository with the upstream's branches and tags. Nothing
//! enters it before the upstream has it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottle_policy::{GateUpstream, Stale};
use tokio::sync::{Mutex, watch};

use super::initial_clone::InitialClone;
use super::upstream_refs::{Refs, UpstreamRefs, has_sha256_ids, parse_refs};
use crate::git_gate::exec::{CommandOutput, ConfinedCommand};
use crate::git_gate::programs::Programs;
use crate::git_gate::refusal::{Refusal, Rule};
use crate::git_gate::remote::Remote;

/// Time for git on local files.
pub const LOCAL_TIME: Duration = Duration::from_secs(120);
/// Largest list of refs, in bytes.
const MAX_REFS_BYTES: usize = 64 << 20;
/// Most bytes of output of a git command that should write none.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// Time for the upstream to list its refs.
const LIST_TIME: Duration = Duration::from_secs(60);
/// Time to fetch what is new, and to repack.
const FETCH_TIME: Duration = Duration::from_secs(3600);
/// Shortest time between two refreshes, however often a guest fetches.
const REFRESH_INTERVAL: Duration = Duration::from_millis(300);
/// A mirror with more packs than this is repacked: each push and each fetch adds one.
const MAX_PACKS: usize = 32;
/// A push starts with refs that are at most this old. Its lease catches newer changes.
const MAX_REFS_AGE: Duration = Duration::from_secs(60);
/// A file in the mirror that exists once a fetch was complete.
const COMPLETE_MARKER: &str = "gate-fetched";

const SHA256: &str = "the upstream is a SHA-256 repository; git-gate supports only SHA-1";

/// The mirror of one upstream.
#[derive(Debug)]
pub struct Mirror {
    /// The upstream's entry in the policy that the daemon started with.
    pub config: GateUpstream,
    /// The bare repository.
    pub path: PathBuf,
    /// The parent of the pushes' quarantine directories.
    pub quarantine: PathBuf,
    /// How the upstream is reached.
    pub remote: Remote,
    /// The programs that it runs.
    pub programs: Arc<Programs>,
    dir: PathBuf,
    /// Held while the mirror or the upstream is changed.
    refresh: Mutex<RefreshState>,
    initial: watch::Sender<Option<Arc<InitialClone>>>,
}

#[derive(Debug, Default)]
struct RefreshState {
    started: Option<Instant>,
    result: Option<Result<(), Refusal>>,
    /// Whether the mirror was ever complete.
    complete: bool,
}

/// Resets a watch channel to `None` when it is dropped.
struct Reset<'a, T>(&'a watch::Sender<Option<T>>);

impl<T> Drop for Reset<'_, T> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// Creates a private directory and its parents.
///
/// # Errors
/// As mkdir(2).
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Mirror {
    /// Uses the directory `dir`, after removing what a killed daemon left there.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(
        config: GateUpstream,
        dir: PathBuf,
        remote: Remote,
        programs: Arc<Programs>,
    ) -> io::Result<Self> {
        let (path, quarantine) = (dir.join("mirror.git"), dir.join("quarantine"));
        if quarantine.exists() {
            fs::remove_dir_all(&quarantine)?;
        }
        private_dir(&quarantine)?;
        remove_leftovers(&path)?;
        let complete = path.join(COMPLETE_MARKER).exists();
        let refresh = Mutex::new(RefreshState { complete, ..RefreshState::default() });
        let initial = watch::Sender::default();
        Ok(Self { config, path, quarantine, remote, programs, dir, refresh, initial })
    }

    /// Brings the mirror up to date. Callers that arrive during a refresh wait for the next one,
    /// which serves all of them. With [`Stale::Allow`] an old mirror is good enough while the
    /// upstream cannot be reached.
    ///
    /// # Errors
    /// [`Rule::Upstream`], [`Rule::ObjectFormat`], [`Rule::Host`].
    pub async fn refresh(self: &Arc<Self>, stale: Stale) -> Result<(), Refusal> {
        let this = self.clone();
        // A task of its own, so that it ends even if the client goes away: a git that is killed
        // leaves locks behind.
        let task = tokio::spawn(async move { this.refresh_now(stale).await });
        task.await.map_err(|e| Refusal::host("refresh a mirror", &e))?
    }

    /// The initial clone, while it is in progress.
    pub fn initial_clone(&self) -> Option<Arc<InitialClone>> {
        self.initial.borrow().clone()
    }

    /// Like [`Mirror::refresh`], but returns as soon as an initial clone is in progress.
    ///
    /// # Errors
    /// As [`Mirror::refresh`].
    pub async fn refresh_or_initial_clone(self: &Arc<Self>, stale: Stale) -> Result<(), Refusal> {
        let mut initial = self.initial.subscribe();
        tokio::select! {
            biased;
            Ok(_) = initial.wait_for(Option::is_some) => Ok(()),
            done = self.refresh(stale) => done,
        }
    }

    async fn refresh_now(&self, stale: Stale) -> Result<(), Refusal> {
        let arrived = Instant::now();
        let mut state = self.refresh.lock().await;
        if state.started.is_none_or(|started| started < arrived) || state.result.is_none() {
            if let Some(started) = state.started {
                tokio::time::sleep_until((started + REFRESH_INTERVAL).into()).await;
            }
            state.started = Some(Instant::now());
            state.result = None;
            let result = self.update().await;
            if result.is_err() {
                // A git that ran out of time was killed.
                remove_leftovers(&self.path).map_err(|e| Refusal::host("clean a mirror", &e))?;
            }
            state.complete |= result.is_ok();
            state.result = Some(result);
        }
        match state.result.clone() {
            Some(Err(e)) if e.rule == Rule::Upstream && stale == Stale::Allow && state.complete => {
                tracing::warn!("{}: {}; the last mirror is served", self.config.name, e.reason);
                Ok(())
            }
            other => other.unwrap_or(Ok(())),
        }
    }

    /// Like [`Mirror::refresh`], but does nothing if the last refresh was within a minute.
    ///
    /// # Errors
    /// As [`Mirror::refresh`].
    pub async fn refresh_for_push(self: &Arc<Self>, stale: Stale) -> Result<(), Refusal> {
        {
            let state = self.refresh.lock().await;
            let recent = state.started.is_some_and(|s| s.elapsed() < MAX_REFS_AGE);
            if recent && matches!(state.result, Some(Ok(()))) {
                return Ok(());
            }
        }
        self.refresh(stale).await
    }

    /// While the result is held, nobody else changes the mirror or the upstream.
    pub async fn exclusive(&self) -> impl Drop + '_ {
        self.refresh.lock().await
    }

    /// git on the mirror.
    pub fn git(&self) -> ConfinedCommand {
        ConfinedCommand::git(&self.programs, &self.path)
    }

    /// git on the mirror, which it may change.
    fn git_rw(&self) -> ConfinedCommand {
        self.git().rw(&self.path)
    }

    /// The mirror's branches and tags.
    ///
    /// # Errors
    /// [`Rule::Host`].
    pub async fn refs(&self) -> Result<Refs, Refusal> {
        let list = self.git().args([
            "for-each-ref",
            "--format=%(objectname) %(refname)",
            "refs/heads/",
            "refs/tags/",
        ]);
        let what = "read the mirror's refs";
        let output = list.run_ok(Vec::new(), MAX_REFS_BYTES, LOCAL_TIME, what).await?;
        Ok(parse_refs(&output, b' ', ""))
    }

    /// What the upstream has now.
    ///
    /// # Errors
    /// [`Rule::Upstream`], [`Rule::ObjectFormat`].
    pub async fn upstream_refs(&self) -> Result<UpstreamRefs, Refusal> {
        let list = self.remote.reached_by(self.git()).args([
            "ls-remote",
            "--symref",
            "--",
            self.remote.url(),
            "HEAD",
            "refs/heads/*",
            "refs/tags/*",
        ]);
        let output = list
            .run(Vec::new(), MAX_REFS_BYTES, LIST_TIME)
            .await
            .map_err(|e| unreachable(&e.to_string()))?;
        if !output.status.success() {
            return Err(self.not_answered(&output));
        }
        if has_sha256_ids(&output.stdout) {
            return Err(Refusal::new(Rule::ObjectFormat, SHA256));
        }
        Ok(UpstreamRefs::parse(&output.stdout))
    }

    fn not_answered(&self, output: &CommandOutput) -> Refusal {
        tracing::warn!("{}: {}", self.config.name, output.stderr.trim_end());
        if output.stderr.contains("object format")
            || output.stderr.contains("mismatched algorithms")
        {
            return Refusal::new(Rule::ObjectFormat, SHA256);
        }
        unreachable(&output.reason())
    }

    async fn update(&self) -> Result<(), Refusal> {
        if !self.path.join("HEAD").exists() {
            self.init().await?;
        }
        let upstream = self.upstream_refs().await?;
        let mine = self.refs().await?;
        let has_head = upstream.head.as_ref().is_some_and(|h| upstream.refs.contains_key(h));
        if !mine.is_empty() || !has_head {
            return self.fetch(&upstream, &mine).await;
        }
        let (initial, ended) = InitialClone::new(upstream.clone(), self.path.join("objects/pack"));
        let _reset = Reset(&self.initial);
        self.initial.send_replace(Some(Arc::new(initial)));
        let result = self.fetch(&upstream, &mine).await;
        let unchanged = match &result {
            Ok(()) => self.refs().await.map(|refs| refs == upstream.refs),
            Err(e) => Err(e.clone()),
        };
        ended.send_replace(Some(unchanged));
        result
    }

    async fn fetch(&self, upstream: &UpstreamRefs, mine: &Refs) -> Result<(), Refusal> {
        if upstream.refs != *mine {
            let fetch = self.remote.reached_by(self.git_rw()).args([
                "fetch",
                "--quiet",
                "--prune",
                "--no-tags",
                "--force",
                "--no-auto-maintenance",
                "--no-write-fetch-head",
                "--refmap=",
                "--",
                self.remote.url(),
                "+refs/heads/*:refs/heads/*",
                "+refs/tags/*:refs/tags/*",
            ]);
            let output = fetch
                .run(Vec::new(), MAX_OUTPUT_BYTES, FETCH_TIME)
                .await
                .map_err(|e| unreachable(&e.to_string()))?;
            if !output.status.success() {
                return Err(self.not_answered(&output));
            }
        }
        if let Some(head) = &upstream.head {
            let now = fs::read_to_string(self.path.join("HEAD")).unwrap_or_default();
            if now.trim_end() != format!("ref: {head}") {
                let set = self.git_rw().args(["symbolic-ref", "HEAD", head]);
                let what = "set the mirror's HEAD";
                set.run_ok(Vec::new(), MAX_OUTPUT_BYTES, LOCAL_TIME, what).await?;
            }
        }
        fs::write(self.path.join(COMPLETE_MARKER), "")
            .map_err(|e| Refusal::host("write to the mirror", &e))?;
        self.repack_if_needed().await;
        Ok(())
    }

    /// Combines small packs. Processes that read the old ones are not disturbed.
    async fn repack_if_needed(&self) {
        let files = fs::read_dir(self.path.join("objects/pack")).into_iter().flatten().flatten();
        let packs = files.filter(|f| f.path().extension().is_some_and(|e| e == "pack")).count();
        if packs <= MAX_PACKS {
            return;
        }
        let repack = self.git_rw().args(["repack", "--geometric=2", "-d", "-q"]);
        let result = repack.run_ok(Vec::new(), MAX_OUTPUT_BYTES, FETCH_TIME, "repack a mirror");
        if let Err(e) = result.await {
            tracing::warn!("{}: {}", self.config.name, e.reason);
        }
    }

    async fn init(&self) -> Result<(), Refusal> {
        let what = "make a mirror";
        let new = self.dir.join("new.git");
        let _ = fs::remove_dir_all(&new);
        private_dir(&new).map_err(|e| Refusal::host(what, &e))?;
        let init = ConfinedCommand::git(&self.programs, &new).rw(&new).args([
            "init",
            "--quiet",
            "--bare",
            "--template=",
            "--object-format=sha1",
        ]);
        init.run_ok(Vec::new(), MAX_OUTPUT_BYTES, LOCAL_TIME, what).await?;
        fs::rename(&new, &self.path).map_err(|e| Refusal::host(what, &e))
    }
}

fn unreachable(why: &str) -> Refusal {
    Refusal::new(Rule::Upstream, format!("the upstream cannot be reached: {why}"))
}

/// Removes lock files and partial packs that a killed git left in `mirror`.
///
/// # Errors
/// The file system's.
pub fn remove_leftovers(mirror: &Path) -> io::Result<()> {
    let mut dirs = vec![mirror.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else if name.ends_with(".lock") || name.starts_with("tmp_") {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}
