//! Copies a workspace into a bottle, and its work out again.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bottle_channel::copy::{self, CopyReport};
use bottle_channel::{CopyInRequest, ExecRequest, HostOpen, Session, run_exec};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::baseline::Baseline;
use super::snapshot::Snapshot;
use super::unpack::{UNPACK_LIMITS, tar_input, tar_script};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::plan::LaunchPlan;
use crate::provision;

/// Longest time to copy a workspace in or out.
const DEADLINE: Duration = Duration::from_secs(600);
/// Largest workspace, in files and bytes, that gets a first commit in the guest: under emulation git
/// takes seconds for a larger one.
const FIRST_COMMIT_LIMITS: (usize, u64) = (2000, 16 << 20);
/// A script for bash in the agent's workspace: it makes a repository, so that the agent sees its own
/// changes.
const FIRST_COMMIT_SCRIPT: &str = "git init -q -b main . && { [ -z \"$0\" ] || { git -c core.looseCompression=0 add -A && \
    git -c user.name=bottle -c user.email=bottle@localhost commit -q -m 'The workspace as it came into the bottle'; }; }";

/// Copies `snapshot` into the agent's workspace.
pub(crate) async fn copy_in(
    session: &Session<HostOpen>,
    plan: &LaunchPlan,
    snapshot: &Snapshot,
) -> Result<(Baseline, CopyReport)> {
    let what = || "the workspace cannot be copied into the bottle".to_owned();
    let image = &plan.image.facts.guest;
    let (from, to) = std::os::unix::net::UnixStream::pair().context(ErrorKind::Internal, what)?;
    from.set_nonblocking(true).context(ErrorKind::Internal, what)?;
    let from = tokio::net::UnixStream::from_std(from).context(ErrorKind::Internal, what)?;
    let snapshot_of = snapshot.clone();
    let packing = tokio::task::spawn_blocking(move || snapshot_of.pack(to));
    let request = CopyInRequest {
        dest_dir: image.workdir.clone(),
        uid: Some(image.uid),
        gid: Some(image.gid),
    };
    let copied = tokio::time::timeout(DEADLINE, copy::copy_in(session, request, from))
        .await
        .context(ErrorKind::Guest, what)?;
    let report = copied
        .context(ErrorKind::Guest, what)
        .map_err(|e| e.hint("resources.disk of the bottle may be too small for it"))?;
    let baseline =
        packing.await.context(ErrorKind::Internal, what)?.context(ErrorKind::Io, what)?;
    if snapshot.repository {
        let small = snapshot.entries.len() <= FIRST_COMMIT_LIMITS.0
            && snapshot.bytes <= FIRST_COMMIT_LIMITS.1;
        let argv = ["bash", "-c", FIRST_COMMIT_SCRIPT, if small { "commit" } else { "" }]
            .map(str::to_owned)
            .to_vec();
        // Failing is fine: the repository is a convenience.
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
        .context(ErrorKind::Guest, what)?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr).lines().last().unwrap_or_default().to_owned();
    Err(Error::new(ErrorKind::Config, format!("{}: {why}", what()))
        .hint(format!("bottle logs {}", plan.slug)))
}

fn request_of(plan: &LaunchPlan, argv: Vec<String>, stdin: bool) -> ExecRequest {
    let image = &plan.image.facts.guest;
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

/// Saves the work of a running bottle as tar in the new file `to`.
pub(crate) async fn save(
    session: &Session<HostOpen>,
    plan: &LaunchPlan,
    baseline: &Baseline,
    to: impl AsRef<Path>,
) -> Result<()> {
    let request = request_of(plan, tar_command(), true);
    let stream = session
        .open(&HostOpen::Exec(request))
        .await
        .context(ErrorKind::Guest, || "the guest does not answer".into())?;
    receive_tar(stream, baseline, to).await
}

/// The command that prints a workspace as tar; it runs in the workspace.
#[must_use]
pub fn tar_command() -> Vec<String> {
    ["bash", "-c", tar_script(), "."].map(str::to_owned).to_vec()
}

/// Writes the output of the process behind `stream`, which runs [`tar_command`], to the new file
/// `to`.
///
/// # Errors
/// `Guest` when the guest fails or sends more than the limit: then the file must not be used.
pub async fn receive_tar<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    baseline: &Baseline,
    to: impl AsRef<Path>,
) -> Result<()> {
    let what = || "the bottle's work cannot be taken out".to_owned();
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = options.open(to.as_ref())?.into_file();
    let names = tar_input(baseline);
    let out = Capped { to: file.into(), left: UNPACK_LIMITS.bytes };
    let (_controls, receiver) = mpsc::channel(1);
    let receiving = run_exec(stream, names.as_slice(), out, tokio::io::sink(), receiver);
    let status = tokio::time::timeout(DEADLINE, receiving)
        .await
        .context(ErrorKind::Guest, what)?
        .context(ErrorKind::Guest, what)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(
            ErrorKind::Guest,
            format!("{}: the guest failed ({})", what(), status.code()),
        ))
    }
}

/// A file that accepts at most `left` bytes more.
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
            return Poll::Ready(Err(std::io::Error::other("the bottle sends too much")));
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
