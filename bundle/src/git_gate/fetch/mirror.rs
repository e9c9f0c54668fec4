//! One upstream's mirror: a bare repository with the upstream's branches and tags, and nothing that
//! anybody else put there before the upstream had it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bottle_policy::{GateTextError, GateUpstream, Push, Stale};
use tokio::sync::{Mutex, watch};

use crate::git_gate::exec::{Call, Ended, Programs};
use crate::git_gate::fetch::initial_clone::First;
use crate::git_gate::push::attest::Attestor;
use crate::git_gate::push::commands::Id;
use crate::git_gate::push::ref_policy::{RefPolicy, is_ref_name};
use crate::git_gate::refusal::{Refusal, Rule};
use crate::git_gate::remote::Remote;

/// Most bytes of a list of refs.
const REFS: usize = 64 << 20;
/// For a question to the upstream.
const ASK: Duration = Duration::from_secs(60);
/// For what works on local files and little data.
pub(in crate::git_gate) const LOCAL: Duration = Duration::from_secs(120);
/// For bringing over what is new.
const FETCH: Duration = Duration::from_secs(3600);
/// Least time between two questions to the upstream, however often a guest asks.
const PACE: Duration = Duration::from_millis(300);
/// More packs than these are put together: each push and each fetch leaves one.
const PACKS: usize = 32;
/// A push begins with refs that are at most so old: the lease finds out about newer ones.
const RECENT: Duration = Duration::from_secs(60);

const SHA256: &str = "the upstream is a SHA-256 repository; the gate knows SHA-1 only";

/// Refs by name.
pub type Refs = BTreeMap<String, Id>;

/// What an upstream has.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Branches and tags.
    pub refs: Refs,
    /// What the annotated ones of those tags are of.
    pub peeled: Refs,
    /// Its HEAD, a branch's full name.
    pub head: Option<String>,
}

struct Unset<'a, T>(&'a watch::Sender<Option<T>>);

impl<T> Drop for Unset<'_, T> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// What of an upstream's policy can change while the daemon runs.
#[derive(Debug)]
pub struct Rules {
    /// What a fetch gets while the upstream cannot be reached.
    pub stale: Stale,
    /// What may be pushed, and its patterns with the names put in.
    pub push: Option<(Push, RefPolicy)>,
    /// Digest of the policy that says so.
    pub digest: String,
}

impl Rules {
    /// Those of `upstream`.
    ///
    /// # Errors
    /// A name that makes a pattern none.
    pub fn new(
        upstream: &GateUpstream,
        (agent, slug): (&str, &str),
        digest: String,
    ) -> Result<Self, GateTextError> {
        let push = upstream
            .push
            .as_ref()
            .map(|p| Ok((p.clone(), RefPolicy::new(p, agent, slug)?)))
            .transpose()?;
        Ok(Self { stale: upstream.stale, push, digest })
    }
}

/// One upstream.
#[derive(Debug)]
pub struct Repo {
    /// As in the policy that the daemon began with.
    pub upstream: GateUpstream,
    rules: RwLock<Arc<Rules>>,
    /// Its own directory.
    pub dir: PathBuf,
    /// The bare repository in it.
    pub mirror: PathBuf,
    /// Where pushes wait, one directory each.
    pub quarantine: PathBuf,
    /// The way there.
    pub remote: Remote,
    /// Vouches for what is pushed, where the policy asks for it.
    pub attestor: Option<Attestor>,
    /// What starts programs.
    pub programs: Arc<Programs>,
    /// Held by a push from its check to its end: they take turns.
    pub pushing: Mutex<()>,
    /// Held by whoever changes the mirror or the upstream.
    refreshed: Mutex<Refreshed>,
    first: watch::Sender<Option<Arc<First>>>,
}

#[derive(Debug, Default)]
struct Refreshed {
    began: Option<Instant>,
    result: Option<Result<(), Refusal>>,
    /// Whether the mirror has ever been whole.
    once: bool,
}

/// Makes a private directory, its parents too.
///
/// # Errors
/// As mkdir(2).
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Repo {
    /// Takes over `dir`, cleaning up what a killed daemon left there.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(
        upstream: GateUpstream,
        (rules, attestor): (Rules, Option<Attestor>),
        dir: PathBuf,
        remote: Remote,
        programs: Arc<Programs>,
    ) -> io::Result<Self> {
        let (mirror, quarantine) = (dir.join("mirror.git"), dir.join("quarantine"));
        if quarantine.exists() {
            fs::remove_dir_all(&quarantine)?;
        }
        private_dir(&quarantine)?;
        clean(&mirror)?;
        let refreshed = Mutex::new(Refreshed {
            once: mirror.join("gate-fetched").exists(),
            ..Refreshed::default()
        });
        let rules = RwLock::new(Arc::new(rules));
        let (pushing, first) = (Mutex::default(), watch::Sender::default());
        Ok(Self {
            upstream,
            rules,
            dir,
            mirror,
            quarantine,
            remote,
            attestor,
            programs,
            pushing,
            refreshed,
            first,
        })
    }

    /// The rules in force. Who began with them ends with them.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts others in force.
    pub fn replace_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Brings the mirror up to date. Who comes while that is under way waits for the next one,
    /// which serves all of them.
    ///
    /// # Errors
    /// [`Rule::Upstream`], unless what is old is allowed; [`Rule::ObjectFormat`], [`Rule::Host`].
    pub async fn refresh(self: &Arc<Self>) -> Result<(), Refusal> {
        let me = self.clone();
        // Whether or not who asked is still there: a git that is killed leaves locks behind.
        let task = tokio::spawn(async move { me.refresh_now().await });
        task.await.map_err(|e| Refusal::host("refresh a mirror", &e))?
    }

    /// The first fetch of all, while it is under way.
    pub fn first(&self) -> Option<Arc<First>> {
        self.first.borrow().clone()
    }

    /// The same as [`Repo::refresh`], but for the first fetch of all, which has only to be under
    /// way.
    ///
    /// # Errors
    /// As [`Repo::refresh`].
    pub async fn refresh_or_first(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut first = self.first.subscribe();
        tokio::select! {
            biased;
            Ok(_) = first.wait_for(Option::is_some) => Ok(()),
            done = self.refresh() => done,
        }
    }

    async fn refresh_now(&self) -> Result<(), Refusal> {
        let came = Instant::now();
        let mut state = self.refreshed.lock().await;
        if state.began.is_none_or(|began| began < came) || state.result.is_none() {
            if let Some(began) = state.began {
                tokio::time::sleep_until((began + PACE).into()).await;
            }
            state.began = Some(Instant::now());
            state.result = None;
            let done = self.bring_over().await;
            if done.is_err() {
                // What ran out of time was killed.
                clean(&self.mirror).map_err(|e| Refusal::host("clean a mirror", &e))?;
            }
            state.once |= done.is_ok();
            state.result = Some(done);
        }
        match state.result.clone() {
            Some(Err(e))
                if e.rule == Rule::Upstream && self.rules().stale == Stale::Allow && state.once =>
            {
                tracing::warn!("{}: {}; the last mirror is served", self.upstream.name, e.reason);
                Ok(())
            }
            other => other.unwrap_or(Ok(())),
        }
    }

    /// The same, unless it was done just now.
    ///
    /// # Errors
    /// As [`Repo::refresh`].
    pub async fn refresh_for_push(self: &Arc<Self>) -> Result<(), Refusal> {
        {
            let state = self.refreshed.lock().await;
            if matches!(state.result, Some(Ok(())))
                && state.began.is_some_and(|b| b.elapsed() < RECENT)
            {
                return Ok(());
            }
        }
        self.refresh().await
    }

    /// Nobody else changes mirror or upstream while this is held.
    pub async fn alone(&self) -> impl Drop + '_ {
        self.refreshed.lock().await
    }

    /// git on the mirror.
    pub fn git(&self) -> Call {
        Call::git(&self.programs, &self.mirror)
    }

    /// The mirror's branches and tags.
    ///
    /// # Errors
    /// [`Rule::Host`].
    pub async fn refs(&self) -> Result<Refs, Refusal> {
        let call = self.git().args([
            "for-each-ref",
            "--format=%(objectname) %(refname)",
            "refs/heads/",
            "refs/tags/",
        ]);
        let ended = ran(call.run(Vec::new(), REFS, LOCAL).await, "read the mirror's refs")?;
        Ok(read_refs(&ended.output, b' ', ""))
    }

    /// What the upstream has now.
    ///
    /// # Errors
    /// [`Rule::Upstream`].
    pub async fn upstream_refs(&self) -> Result<Seen, Refusal> {
        let call = self.remote.reached_by(self.git()).args([
            "ls-remote",
            "--symref",
            "--",
            self.remote.url(),
            "HEAD",
            "refs/heads/*",
            "refs/tags/*",
        ]);
        let ended =
            call.run(Vec::new(), REFS, ASK).await.map_err(|e| unreachable(&e.to_string()))?;
        if !ended.status.success() {
            return Err(self.no_answer(&ended));
        }
        // 64 digits where 40 should be.
        if ended
            .output
            .split(|b| *b == b'\n')
            .any(|l| l.len() > 64 && l[..64].iter().all(u8::is_ascii_hexdigit))
        {
            return Err(Refusal::new(Rule::ObjectFormat, SHA256));
        }
        let head = ended.output.split(|b| *b == b'\n').find_map(|line| {
            let target = line.strip_prefix(b"ref: ")?.strip_suffix(b"\tHEAD")?;
            String::from_utf8(target.to_vec())
                .ok()
                .filter(|name| name.starts_with("refs/heads/") && is_ref_name(name))
        });
        Ok(Seen {
            refs: read_refs(&ended.output, b'\t', ""),
            peeled: read_refs(&ended.output, b'\t', "^{}"),
            head,
        })
    }

    fn no_answer(&self, ended: &Ended) -> Refusal {
        tracing::warn!("{}: {}", self.upstream.name, ended.complaint.trim_end());
        if ended.complaint.contains("object format")
            || ended.complaint.contains("mismatched algorithms")
        {
            return Refusal::new(Rule::ObjectFormat, SHA256);
        }
        unreachable(&ended.reason())
    }

    async fn bring_over(&self) -> Result<(), Refusal> {
        if !self.mirror.join("HEAD").exists() {
            self.init().await?;
        }
        let seen = self.upstream_refs().await?;
        let mine = self.refs().await?;
        if mine.is_empty() && seen.head.as_ref().is_some_and(|head| seen.refs.contains_key(head)) {
            let (first, ended) = First::new(seen.clone(), self.mirror.join("objects/pack"));
            let first = Arc::new(first);
            let _unset = Unset(&self.first);
            self.first.send_replace(Some(first));
            let done = self.take_over(&seen, &mine).await;
            let same = match done.clone() {
                Ok(()) => self.refs().await.map(|refs| refs == seen.refs),
                Err(e) => Err(e),
            };
            ended.send_replace(Some(same));
            return done;
        }
        self.take_over(&seen, &mine).await
    }

    async fn take_over(&self, seen: &Seen, mine: &Refs) -> Result<(), Refusal> {
        if seen.refs != *mine {
            let call = self.remote.reached_by(self.git().rw(&self.mirror)).args([
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
            let ended = call
                .run(Vec::new(), 1 << 20, FETCH)
                .await
                .map_err(|e| unreachable(&e.to_string()))?;
            if !ended.status.success() {
                return Err(self.no_answer(&ended));
            }
        }
        if let Some(head) = &seen.head {
            let call = self.git().rw(&self.mirror).args(["symbolic-ref", "HEAD", head]);
            let now = fs::read_to_string(self.mirror.join("HEAD")).unwrap_or_default();
            if now.trim_end() != format!("ref: {head}") {
                ran(call.run(Vec::new(), 1 << 20, LOCAL).await, "set the mirror's HEAD")?;
            }
        }
        fs::write(self.mirror.join("gate-fetched"), "")
            .map_err(|e| Refusal::host("write to the mirror", &e))?;
        self.tidy().await;
        Ok(())
    }

    /// Puts packs together, the smaller ones first. Who reads them goes on.
    async fn tidy(&self) {
        let packs = fs::read_dir(self.mirror.join("objects/pack"))
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        if packs.filter(|file| file.path().extension().is_some_and(|e| e == "pack")).count()
            <= PACKS
        {
            return;
        }
        let call = self.git().rw(&self.mirror).args(["repack", "--geometric=2", "-d", "-q"]);
        if let Err(e) = ran(call.run(Vec::new(), 1 << 16, FETCH).await, "put packs together") {
            tracing::warn!("{}: {}", self.upstream.name, e.reason);
        }
    }

    async fn init(&self) -> Result<(), Refusal> {
        let new = self.dir.join("new.git");
        let _ = fs::remove_dir_all(&new);
        private_dir(&new).map_err(|e| Refusal::host("make a mirror", &e))?;
        let call = Call::git(&self.programs, &new).rw(&new).args([
            "init",
            "--quiet",
            "--bare",
            "--template=",
            "--object-format=sha1",
        ]);
        ran(call.run(Vec::new(), 1 << 20, LOCAL).await, "make a mirror")?;
        fs::rename(&new, &self.mirror).map_err(|e| Refusal::host("make a mirror", &e))
    }
}

fn unreachable(why: &str) -> Refusal {
    Refusal::new(Rule::Upstream, format!("the upstream cannot be reached: {why}"))
}

/// A child that had to succeed.
pub(in crate::git_gate) fn ran(ended: io::Result<Ended>, what: &str) -> Result<Ended, Refusal> {
    match ended {
        Ok(ended) if ended.status.success() => Ok(ended),
        Ok(ended) => Err(Refusal::host(what, &ended.reason())),
        Err(e) => Err(Refusal::host(what, &e)),
    }
}

/// Those of the `ID REF` lines that are branches and tags, and whose names end in `mark`, which is
/// left out.
fn read_refs(text: &[u8], between: u8, mark: &str) -> Refs {
    let line = |line: &[u8]| {
        let (id, name) = line.split_at_checked(40)?;
        let name = std::str::from_utf8(name.strip_prefix(&[between])?).ok()?.strip_suffix(mark)?;
        let wanted = (name.starts_with("refs/heads/") || name.starts_with("refs/tags/"))
            && !name.ends_with("^{}");
        Some((name.to_owned(), Id::parse(id).filter(|_| wanted)?))
    };
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

/// Removes locks and half-written packs of git processes that were killed with the daemon.
pub(in crate::git_gate) fn clean(mirror: &Path) -> io::Result<()> {
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
