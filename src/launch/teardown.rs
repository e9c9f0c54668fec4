//! The teardown of a bottle: the agent's work is saved, then the journal is undone in reverse.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::state::LaunchState;
use crate::credentials::deploy_key;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::stderr::note;
use crate::machine::Running;
use crate::state::{Journal, Phase};
use crate::workspace::{self, Baseline, WorkspaceChecks, transfer};

/// Longest time for an orderly end of a machine.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);

impl LaunchState<'_> {
    /// Undoes everything. A failure here does not hide how the launch itself ended.
    pub(super) async fn tear_down(mut self, outcome: Result<u8>) -> Result<u8> {
        let mut components = std::mem::take(&mut self.components);
        if let Some(machine) = &mut components.machine {
            self.save_work(machine).await;
            if self.launch.keep && self.has_workspace {
                self.save_disk(machine).await;
            }
        }
        if let Some(splices) = components.splices.take() {
            splices.shut().await;
        }
        if let Some(broker) = components.broker.take() {
            broker.close().await;
        }
        let unwound = Journal::unwind(&self.dir.journal());
        // The kernel may still be closing the files of processes that have ended: wait for them.
        if let Some(machine) = &mut components.machine {
            machine.vmm.kill().await;
        }
        if let Some(bundle) = &mut components.bundle {
            bundle.gone().await;
        }
        // Always, and after the sidecar that used the keys is gone.
        let revoked = deploy_key::revoke(&self.dir, self.metadata.started_ms).await.map(drop);
        if let Err(e) = self
            .dir
            .write_metadata(&self.metadata.ended(Phase::Exited, outcome.as_ref().ok().copied()))
        {
            note(format_args!("bottle: {e:#}"));
        }
        let cleaned_up = match (unwound, revoked) {
            (Err(a), Err(b)) => {
                Err(Error::new(a.kind(), format!("{a:#}; {b:#}")).hint("bottle cleanup"))
            }
            (unwound, revoked) => unwound.and(revoked),
        };
        match (outcome, cleaned_up) {
            (outcome, Ok(())) => outcome,
            (Ok(_), Err(failure)) => Err(failure),
            (Err(outcome), Err(failure)) => {
                Err(Error::new(outcome.kind(), format!("{outcome:#}; and then {failure:#}"))
                    .hint("bottle cleanup"))
            }
        }
    }
}

impl LaunchState<'_> {
    /// Saves the agent's work that was not pulled, and says so.
    async fn save_work(&self, machine: &Running) {
        let Some(baseline) = self.baseline.as_ref().filter(|_| self.has_workspace) else { return };
        let (slug, work) = (self.dir.slug(), self.dir.unpulled_tar());
        match transfer::save(&machine.session, &self.plan, baseline, &work).await {
            Ok(()) => match unpulled(work.as_ref(), baseline) {
                Ok(0) => drop(std::fs::remove_file(work)),
                Ok(n) => note(format_args!(
                    "bottle: {n} file{} changed in the bottle; nothing is lost: bottle diff {slug}, bottle pull {slug}",
                    if n == 1 { "" } else { "s" }
                )),
                Err(e) => note(format_args!("bottle: {e:#}")),
            },
            Err(e) => {
                let _ = std::fs::remove_file(work);
                note(format_args!(
                    "bottle: {e:#}; what was not pulled is lost{}",
                    if self.launch.keep { ", but for the disk" } else { "" }
                ));
            }
        }
    }

    /// Shuts the guest down and keeps its disk for `bottle resume`.
    async fn save_disk(&self, machine: &mut Running) {
        let slug = self.dir.slug();
        let down = async {
            machine
                .session
                .shutdown()
                .await
                .context(ErrorKind::Guest, || "the guest does not shut down".into())?;
            machine.vmm.ended().await;
            Ok::<(), Error>(())
        };
        let saved = match tokio::time::timeout(SHUTDOWN_DEADLINE, down).await {
            Ok(Ok(())) => std::fs::rename(self.dir.disk(), self.dir.resumable_disk())
                .context(ErrorKind::Io, || "the disk cannot be kept".into()),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::new(ErrorKind::Guest, "the guest does not shut down")),
        };
        match saved {
            Ok(()) => note(format_args!(
                "bottle: {slug} is stopped; bottle resume {slug} goes on with it, bottle rm {slug} forgets it"
            )),
            Err(e) => note(format_args!("bottle: {e:#}, so {slug} cannot be resumed")),
        }
    }
}

/// How many files of the tar `work` differ from the baseline.
fn unpulled(work: &Path, baseline: &Baseline) -> Result<usize> {
    let what = || format!("cannot read {}", work.display());
    let into = tempfile::tempdir_in(work.parent().unwrap_or(Path::new(".")))
        .context(ErrorKind::Io, what)?;
    let refused = workspace::unpack(
        File::open(work).context(ErrorKind::Io, what)?,
        into.path(),
        WorkspaceChecks::ALL,
    )?;
    let found = workspace::changes(into.path(), baseline, refused, WorkspaceChecks::ALL)?;
    Ok(found.list.len() + found.refused.len())
}
