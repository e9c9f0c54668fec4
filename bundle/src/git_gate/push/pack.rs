//! The pack of a push: its refs are checked, then the pack is written into a quarantine that is
//! removed with the push.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::Push;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::head::PushHead;
use super::pack_limits::PackLimits;
use super::ref_policy::RefPolicy;
use super::upstream::{Upstream, UpstreamRules};
use crate::git_gate::body::RequestBody;
use crate::git_gate::exec::{CommandOutput, RunningCommand};
use crate::git_gate::fetch::mirror::{Mirror, private_dir};
use crate::git_gate::fetch::upstream_refs::Refs;
use crate::git_gate::refusal::{Checks, Refusal, Rule};
use crate::git_gate::scan::gitleaks::GitleaksRun;
use crate::git_gate::shared::Shared;
use crate::git_gate::text::printable;

/// Time for `git index-pack` after it got the last byte of the pack.
const INDEX_TIME: Duration = Duration::from_secs(600);
/// Size of a pack without objects, in bytes: header and checksum, gitformat-pack(5).
const EMPTY_PACK_BYTES: u64 = 32;

/// A directory for the objects of one push. Dropping it removes it.
#[derive(Debug)]
pub struct Quarantine(PathBuf);

impl Quarantine {
    fn new(mirror: &Mirror) -> Result<Self, Refusal> {
        let bad = |e: &dyn std::fmt::Display| Refusal::host("make room for the push", e);
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|e| bad(&e))?;
        let this = Self(mirror.quarantine.join(hex::encode(name)));
        private_dir(&this.objects().join("pack")).map_err(|e| bad(&e))?;
        private_dir(&this.objects().join("info")).map_err(|e| bad(&e))?;
        let alternates = format!("{}\n", mirror.path.join("objects").display());
        fs::write(this.objects().join("info/alternates"), alternates).map_err(|e| bad(&e))?;
        Ok(this)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// Its object directory.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::error!("{}: {e}", self.0.display());
        }
    }
}

/// A push whose pack is complete and in quarantine.
pub struct ReceivedPack {
    /// Its objects.
    pub quarantine: Quarantine,
    /// A run of gitleaks for it, if there is a gitleaks.
    pub gitleaks: Option<GitleaksRun>,
    /// The mirror's refs that the push was checked against.
    pub refs: Refs,
    /// The rules that the push is checked by.
    pub rules: Arc<UpstreamRules>,
}

/// Checks the ref updates, then reads the pack into a quarantine. gitleaks is started first and
/// warms up meanwhile.
///
/// # Errors
/// The first rule that the refs or the pack break.
pub async fn receive_pack(
    shared: &Shared,
    upstream: &Upstream,
    head: &PushHead,
    rest: &[u8],
    body: &mut RequestBody,
) -> Result<ReceivedPack, Refusal> {
    let mirror = &upstream.mirror;
    let refs = mirror.refs().await?;
    let rules = upstream.rules();
    let (push, patterns) = rules.push()?;
    check_refs(&shared.checks, patterns, head, &refs)?;
    let quarantine = Quarantine::new(mirror)?;
    let gitleaks = shared.gitleaks.take(&mirror.programs)?;

    let mut indexer = start_index_pack(shared, mirror, &quarantine)?;
    let empty = feed(&shared.checks, push, &mut indexer, rest, body).await?;
    if !empty {
        finish_index_pack(indexer).await?;
    }
    Ok(ReceivedPack { quarantine, gitleaks, refs, rules })
}

fn check_refs(
    checks: &Checks,
    policy: &RefPolicy,
    head: &PushHead,
    refs: &Refs,
) -> Result<(), Refusal> {
    for update in &head.updates {
        policy.check(update, refs.get(&update.name), checks).map_err(|mut refusal| {
            refusal.reason = format!("{}: {}", printable(&update.name), refusal.reason);
            refusal
        })?;
    }
    Ok(())
}

fn start_index_pack(
    shared: &Shared,
    mirror: &Mirror,
    quarantine: &Quarantine,
) -> Result<RunningCommand, Refusal> {
    let objects = quarantine.objects();
    let mut command = mirror.git().ro(quarantine.path()).rw(&objects).objects(&objects).args([
        "index-pack",
        "--stdin",
        "--fix-thin",
        "--threads=2",
    ]);
    if shared.checks.enabled(Rule::Pack) {
        command = command.arg("--strict");
    }
    command.start().map_err(|e| Refusal::host("read the pack", &e))
}

/// Passes the pack to `indexer` and checks its size on the way. Returns whether the pack has no
/// objects, as when a branch of known commits is created.
async fn feed(
    checks: &Checks,
    push: &Push,
    indexer: &mut RunningCommand,
    rest: &[u8],
    body: &mut RequestBody,
) -> Result<bool, Refusal> {
    let mut pack = PackHeader::default();
    let mut limits = checks.enabled(Rule::MaxBlob).then(|| PackLimits::new(push.max_blob));
    let mut stdin = indexer.stdin.take();
    let mut chunk = Some(Bytes::copy_from_slice(rest));
    while let Some(bytes) = chunk {
        pack.push(&bytes);
        checks.refuse_if(pack.size > push.max_pack, Rule::MaxPack, || {
            format!("the pack is larger than max_pack, {} bytes", push.max_pack)
        })?;
        let too_many = pack.objects().is_some_and(|n| n > push.max_objects);
        checks.refuse_if(too_many, Rule::MaxObjects, || {
            format!("the pack has more than max_objects, {} objects", push.max_objects)
        })?;
        if let Some(limits) = &mut limits {
            limits.push(&bytes)?;
            // A chunk may inflate to a thousand times its size; other requests get their turn.
            tokio::task::yield_now().await;
        }
        if let Some(to) = &mut stdin {
            if to.write_all(&bytes).await.is_err() {
                stdin = None; // index-pack ended early; its exit status tells why
            }
        }
        chunk = body.next().await?;
    }
    Ok(pack.objects() == Some(0) && pack.size == EMPTY_PACK_BYTES)
}

async fn finish_index_pack(mut indexer: RunningCommand) -> Result<(), Refusal> {
    let end = async {
        let mut discarded = Vec::new();
        let _ = indexer.stdout.read_to_end(&mut discarded).await;
        indexer.end().await
    };
    let output = timeout(INDEX_TIME, end)
        .await
        .map_err(|_| Refusal::new(Rule::Pack, "the pack takes too long to read"))?
        .map_err(|e| Refusal::host("read the pack", &e))?;
    if output.status.success() { Ok(()) } else { Err(bad_pack(&output)) }
}

fn bad_pack(output: &CommandOutput) -> Refusal {
    if output.stderr.contains("No space left") || output.stderr.contains("File too large") {
        return Refusal::host("keep the pack, because the disk is full", &output.reason());
    }
    if output.status.code().is_none() {
        return Refusal::host("read the pack: git was ended by its limits", &output.status);
    }
    let reason = output.reason();
    if reason.contains("unresolved deltas") || reason.contains("did not receive expected object") {
        return Refusal::new(
            Rule::Connectivity,
            "the push builds on objects that the upstream does not have",
        );
    }
    Refusal::new(Rule::Pack, format!("git does not accept the pack: {}", printable(&reason)))
}

/// What the start of a pack tells, gitformat-pack(5).
#[derive(Default)]
struct PackHeader {
    start: Vec<u8>,
    size: u64,
}

impl PackHeader {
    fn push(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.start.extend(bytes.iter().take(12 - self.start.len().min(12)));
    }

    /// The count of objects in the header; `None` before it is complete.
    fn objects(&self) -> Option<u32> {
        self.start
            .strip_prefix(b"PACK")?
            .get(4..8)
            .and_then(|n| n.try_into().ok())
            .map(u32::from_be_bytes)
    }
}
