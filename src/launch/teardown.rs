//! The teardown of a bottle: the agent's work is saved, then the journal is undone in reverse.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::state::LaunchState;
use crate::credentials::deploy_key;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::stderr::note;
use crate::humanize::some_of;
use crate::machine::Running;
use crate::state::{Journal, Phase};
use crate::values::neutral;
use crate::workspace::{self, Baseline, WorkspaceChecks, transfer};

/// Longest time for an orderly end of a machine.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);

impl LaunchState<'_> {
    /// Undoes everything. A failure here does not hide how the launch itself ended.
    pub(super) async fn tear_down(mut self, outcome: Result<u8>) -> Result<u8> {
        let mut components = std::mem::take(&mut self.components);
        if let Some(machine) = &mut components.machine {
            let work = self.save_work(machine).await;
            if self.has_workspace && (self.launch.keep || work == Work::OnlyOnDisk) {
                self.save_disk(machine, work).await;
            }
            self.note_left_out();
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

/// Where the agent's work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// In the project, or in a file beside the bottle.
    Saved,
    /// On the bottle's disk and nowhere else.
    OnlyOnDisk,
}

impl LaunchState<'_> {
    /// Saves the agent's work that was not pulled, and says so.
    async fn save_work(&self, machine: &Running) -> Work {
        let Some(baseline) = self.baseline.as_ref().filter(|_| self.has_workspace) else {
            return Work::Saved;
        };
        let (slug, work) = (self.dir.slug(), self.dir.unpulled_tar());
        match transfer::save(&machine.session, &self.plan, baseline, &work).await {
            Ok(()) => match unpulled(work.as_ref(), baseline) {
                Ok((0, _)) => drop(std::fs::remove_file(work)),
                Ok((n, refused)) => {
                    note(format_args!(
                        "bottle: {n} file{} changed in the bottle; nothing is lost: bottle diff {slug}, bottle pull {slug}",
                        if n == 1 { "" } else { "s" }
                    ));
                    if !refused.is_empty() {
                        note(format_args!("bottle: cannot be pulled: {}", some_of(&refused)));
                    }
                }
                // The file is whole; only its comparison failed.
                Err(e) => note(format_args!("bottle: {e:#}; the work is kept: bottle pull {slug}")),
            },
            Err(e) => {
                // It is cut off, and may be what fills the host's disk.
                let _ = std::fs::remove_file(work);
                note(format_args!("bottle: {e:#}"));
                return Work::OnlyOnDisk;
            }
        }
        Work::Saved
    }

    /// Names the files of the project that the bottle never had.
    fn note_left_out(&self) {
        let left_out = self.launch.workspace.iter().flat_map(|snapshot| &snapshot.left_out);
        let names: Vec<String> = left_out
            .map(|(path, why)| format!("{} ({why})", neutral(&path.to_string_lossy())))
            .collect();
        if !names.is_empty() && !self.launch.quiet {
            note(format_args!("bottle: was left out of the bottle: {}", some_of(&names)));
        }
    }

    /// Shuts the guest down and keeps its disk for `bottle resume`. Nothing is written for it: it
    /// works on a full disk.
    async fn save_disk(&self, machine: &mut Running, work: Work) {
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
        let down = tokio::time::timeout(SHUTDOWN_DEADLINE, down)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Guest, "the guest does not shut down")));
        let saved = match down {
            Err(e) if work == Work::Saved => Err(e),
            // The only copy of the work is kept even then: the file system has a journal.
            _ => std::fs::rename(self.dir.disk(), self.dir.resumable_disk())
                .context(ErrorKind::Io, || "the disk cannot be kept".into()),
        };
        match saved {
            Ok(()) if work == Work::OnlyOnDisk => {
                // An empty file, so that a launch does not delete the disk. It has room even if
                // the host's disk is full.
                let marked = std::fs::File::create(self.dir.unsaved());
                let marked = marked.err().map(|e| format!(" (and launch will not know it: {e})"));
                note(format_args!(
                    "bottle: the work is kept on the bottle's disk, {}{}; when the host has room: bottle resume {slug}, then bottle pull {slug}",
                    self.dir.resumable_disk(),
                    marked.unwrap_or_default()
                ));
            }
            Ok(()) => note(format_args!(
                "bottle: {slug} is stopped; bottle resume {slug} goes on with it, bottle rm {slug} forgets it"
            )),
            Err(e) if work == Work::OnlyOnDisk => {
                note(format_args!("bottle: {e:#}, so what was not pulled is lost"));
            }
            Err(e) => note(format_args!("bottle: {e:#}, so {slug} cannot be resumed")),
        }
    }
}

/// How many files of the tar `work` differ from the baseline, and those among them that cannot be
/// pulled, with the reason.
fn unpulled(work: &Path, baseline: &Baseline) -> Result<(usize, Vec<String>)> {
    let what = || format!("cannot read {}", work.display());
    let into = tempfile::tempdir_in(work.parent().unwrap_or(Path::new(".")))
        .context(ErrorKind::Io, what)?;
    let refused = workspace::unpack(
        File::open(work).context(ErrorKind::Io, what)?,
        into.path(),
        WorkspaceChecks::ALL,
    )?;
    let found = workspace::changes(into.path(), baseline, refused, WorkspaceChecks::ALL)?;
    let refused = found.refused.iter().map(|(name, why)| neutral(&format!("{name} ({why})")));
    Ok((found.list.len() + found.refused.len(), refused.collect()))
}
