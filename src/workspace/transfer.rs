//! A workspace into a bottle, and its work out again.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bottle_channel::copy::{CopyReport, copy_in};
use bottle_channel::{CopyInRequest, ExecRequest, HostOpen, Session, run_exec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::error::{Context, Error, Kind, Result};
use crate::plan::LaunchPlan;
use crate::provision;
use crate::workspace::{self, Baseline, Snapshot};

/// Longest time for a workspace to get in or out.
const DEADLINE: Duration = Duration::from_secs(600);
/// Up to this size, files and bytes, the guest's copy gets a first commit: under emulation git
/// takes seconds for more.
const COMMITTED: (usize, u64) = (2000, 16 << 20);
/// Run by bash in the agent's workspace: a repository, so that the agent sees its own changes.
const FIRST_COMMIT: &str = "git init -q -b main . && { [ -z \"$0\" ] || { git -c core.looseCompression=0 add -A && \
    git -c user.name=bottle -c user.email=bottle@localhost commit -q -m 'The workspace as it came into the bottle'; }; }";

/// Copies `snapshot` into the agent's workspace.
pub(crate) async fn put(
    session: &Session<HostOpen>,
    plan: &LaunchPlan,
    snapshot: &Snapshot,
) -> Result<(Baseline, CopyReport)> {
    let what = || "the workspace cannot be copied into the bottle".to_owned();
    let image = &plan.image.facts;
    let (from, to) = std::os::unix::net::UnixStream::pair().context(Kind::Internal, what)?;
    from.set_nonblocking(true).context(Kind::Internal, what)?;
    let from = tokio::net::UnixStream::from_std(from).context(Kind::Internal, what)?;
    let snapshot_of = snapshot.clone();
    let packing = tokio::task::spawn_blocking(move || snapshot_of.pack(to));
    let request = CopyInRequest {
        dest_dir: image.workdir.clone(),
        uid: Some(image.uid),
        gid: Some(image.gid),
    };
    let copied = tokio::time::timeout(DEADLINE, copy_in(session, request, from))
        .await
        .context(Kind::Engine, what)?;
    let report = copied
        .context(Kind::Engine, what)
        .map_err(|e| e.hint("resources.disk of the bottle may be too small for it"))?;
    let baseline = packing.await.context(Kind::Internal, what)?.context(Kind::Config, what)?;
    if snapshot.repository {
        let small = snapshot.entries.len() <= COMMITTED.0 && snapshot.bytes <= COMMITTED.1;
        let argv = ["bash", "-c", FIRST_COMMIT, if small { "commit" } else { "" }]
            .map(str::to_owned)
            .to_vec();
        // A convenience: without it the agent works all the same.
        let _ = session.exec(request_of(plan, argv, false), 1 << 16, DEADLINE).await;
    }
    Ok((baseline, report))
}

/// Clones the plan's first repository into the agent's workspace, through git-gate.
pub(crate) async fn clone(session: &Session<HostOpen>, plan: &LaunchPlan) -> Result<()> {
    let Some(git) = plan.git.first() else { return Ok(()) };
    let argv = ["git", "clone", "-q", git.url.as_str(), "."].map(str::to_owned).to_vec();
    let what = || format!("{} cannot be cloned into the bottle", git.url);
    let done = session
        .exec(request_of(plan, argv, false), 1 << 16, DEADLINE)
        .await
        .context(Kind::Engine, what)?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).lines().last().unwrap_or_default().to_owned();
    Err(Error::new(Kind::Config, format!("{}: {said}", what()))
        .hint(format!("bottle logs {}", plan.slug)))
}

fn request_of(plan: &LaunchPlan, argv: Vec<String>, stdin: bool) -> ExecRequest {
    let image = &plan.image.facts;
    let env = provision::environment(plan, None);
    ExecRequest {
        argv,
        env,
        cwd: Some(image.workdir.clone()),
        uid: image.uid,
        gid: image.gid,
        tty: None,
        stdin,
    }
}

/// The work of a bottle that still runs, into the new file `to`.
pub(crate) async fn save(
    session: &Session<HostOpen>,
    plan: &LaunchPlan,
    baseline: &Baseline,
    to: &Path,
) -> Result<()> {
    let request = request_of(plan, argv(), true);
    let stream = session
        .open(&HostOpen::Exec(request))
        .await
        .context(Kind::Engine, || "the guest does not answer".into())?;
    take(stream, baseline, to).await
}

/// What prints a workspace as tar, to be run in it.
#[must_use]
pub fn argv() -> Vec<String> {
    ["bash", "-c", workspace::script(), "."].map(str::to_owned).to_vec()
}

/// Writes what the process behind `stream` prints, which runs [`argv`], to the new file `to`.
///
/// # Errors
/// `Engine` when the guest fails or gives more than anybody wants: then the file is not to be used.
pub async fn take<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    baseline: &Baseline,
    to: &Path,
) -> Result<()> {
    let what = || "the bottle's work cannot be taken out".to_owned();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .context(Kind::Config, what)?;
    let names = workspace::input(baseline);
    let out = Capped { to: file.into(), left: workspace::MOST.bytes };
    let (_controls, receiver) = mpsc::channel(1);
    let taking = run_exec(stream, names.as_slice(), out, tokio::io::sink(), receiver);
    let status = tokio::time::timeout(DEADLINE, taking)
        .await
        .context(Kind::Engine, what)?
        .context(Kind::Engine, what)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(Kind::Engine, format!("{}: the guest failed ({})", what(), status.code())))
    }
}

/// A file that takes only so much.
struct Capped {
    to: tokio::fs::File,
    left: u64,
}

impl AsyncWrite for Capped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if bytes.len() as u64 > self.left {
            return Poll::Ready(Err(std::io::Error::other("the bottle gives too much")));
        }
        let written = Pin::new(&mut self.to).poll_write(task, bytes);
        if let Poll::Ready(Ok(n)) = &written {
            self.left -= *n as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(task)
    }
}
