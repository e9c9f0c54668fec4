//! A bottle's work that the project does not have yet: read by `diff`, taken over by `pull`, and
//! not lost by `launch` and `rm`.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::stderr::note;
use crate::launch::{Request, connect};
use crate::plan::LaunchPlan;
use crate::state::{BottleDir, Roots};
use crate::values::neutral;
use crate::workspace::{self, Baseline, Changes, WorkspaceChecks, transfer};

/// Refused changes that are named one by one; the rest is counted.
const MAX_REFUSALS_SHOWN: usize = 20;

/// A bottle's files, unpacked, and how they differ from what went in.
pub(super) struct UnpulledWork {
    pub dir: BottleDir,
    pub baseline: Baseline,
    pub changes: Changes,
    unpacked: TempDir,
}

impl UnpulledWork {
    /// Reads the work of the bottle `name`: from its machine when it runs, otherwise from what its
    /// last launch saved.
    pub(super) fn of(name: &str) -> Result<Self> {
        let dir = Roots::from_environment()?.bottle(name)?;
        let baseline = Baseline::read(&dir.workspace(), name)?;
        let alive = dir.status().is_some_and(|s| s.alive);
        if !alive && dir.unsaved().exists() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("the work of {name:?} is only on its disk, {}", dir.resumable_disk()),
            )
            .hint(format!("bottle resume {name}   # its end saves the work; then try again")));
        }
        let what = || "cannot unpack the bottle's work".to_owned();
        let near = dir.workspace();
        let unpacked = tempfile::tempdir_in(near.parent().unwrap_or(".".as_ref()))
            .context(ErrorKind::Io, what)?;
        let tar = if alive {
            let tar = unpacked.path().join("tar");
            crate::host::runtime::block_on(async {
                let request = Request::Exec {
                    argv: transfer::tar_command(),
                    tty: None,
                    term: None,
                    stdin: true,
                    cwd: None,
                    root: false,
                };
                transfer::receive_tar(connect(&dir, &request).await?, &baseline, &tar).await
            })?;
            tar
        } else {
            dir.unpulled_tar().into()
        };
        let into = unpacked.path().join("work");
        std::fs::create_dir(&into).context(ErrorKind::Io, what)?;
        let refused = match File::open(&tar) {
            Ok(file) => workspace::unpack(file, &into, WorkspaceChecks::ALL)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // Work is only saved when something changed, so nothing is lost.
                return Ok(Self { dir, baseline, unpacked, changes: Changes::default() });
            }
            Err(e) => return Err(e).context(ErrorKind::Io, what),
        };
        let changes = workspace::changes(&into, &baseline, refused, WorkspaceChecks::ALL)?;
        Ok(Self { dir, baseline, unpacked, changes })
    }

    /// A private directory for temporary files.
    pub(super) fn scratch(&self) -> &Path {
        self.unpacked.path()
    }

    /// Where the bottle's files are.
    pub(super) fn content(&self) -> PathBuf {
        self.unpacked.path().join("work")
    }

    /// Prints which changes were refused, and why.
    pub(super) fn print_refused(&self) {
        for (name, why) in self.changes.refused.iter().take(MAX_REFUSALS_SHOWN) {
            note(format_args!("bottle: not taken: {}: {}", neutral(name), neutral(why)));
        }
        let more = self.changes.refused.len().saturating_sub(MAX_REFUSALS_SHOWN);
        if more > 0 {
            note(format_args!("bottle: not taken: {more} more"));
        }
    }

    /// The folder of the manifest, relative to the project's root.
    ///
    /// # Errors
    /// The plan of the bottle's launch cannot be read, so that nobody knows which files say what a
    /// bottle may do.
    pub(super) fn manifest_folder(&self) -> Result<PathBuf> {
        let read = || format!("cannot tell where the manifest of {} is", self.dir.slug());
        let json = std::fs::read(self.dir.plan()).context(ErrorKind::Io, read)?;
        let plan: LaunchPlan = serde_json::from_slice(&json)
            .context(ErrorKind::Config, read)
            .map_err(|e| e.hint("bottle pull --manifest-files, after a look at bottle diff"))?;
        let folder = plan.manifest.as_deref().and_then(Path::parent);
        let folder = folder.and_then(|dir| dir.strip_prefix(&self.baseline.root).ok());
        Ok(folder.map(Path::to_owned).unwrap_or_default())
    }
}

/// Refuses to go on while `dir` has work that was not pulled. With `discard`, deletes that work.
pub(super) fn require_pulled(dir: &BottleDir, discard: bool) -> Result<()> {
    let unsaved = dir.unsaved().exists() && dir.resumable_disk().exists();
    if !dir.unpulled_tar().exists() && !unsaved {
        return Ok(());
    }
    if discard {
        note(format_args!("bottle: deleting the changes of {} that were not pulled", dir.slug()));
        let _ = std::fs::remove_file(dir.unsaved());
        if !dir.unpulled_tar().exists() {
            return Ok(()); // the caller deletes the disk
        }
        return std::fs::remove_file(dir.unpulled_tar()).map_err(|e| {
            Error::new(ErrorKind::Config, format!("cannot remove {}: {e}", dir.unpulled_tar()))
        });
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!("bottle {:?} has changes that were not pulled", dir.slug()),
    )
    .hint(format!(
        "bottle diff {0}; bottle pull {0}; bottle resume {0}   # or --discard",
        dir.slug()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_is_only_on_a_disk_is_not_deleted_without_being_asked() {
        let home = tempfile::tempdir().unwrap();
        let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
        let dir = roots.bottle("b").unwrap();
        let file = |path: camino::Utf8PathBuf| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        require_pulled(&dir, false).unwrap();
        // A disk that was kept for `resume` alone may go: its work was saved.
        file(dir.resumable_disk());
        require_pulled(&dir, false).unwrap();
        file(dir.unsaved());
        let refused = require_pulled(&dir, false).unwrap_err().to_string();
        assert!(refused.contains("not pulled"), "{refused}");
        require_pulled(&dir, true).unwrap();
        assert!(!dir.unsaved().exists());
        require_pulled(&dir, false).unwrap();
    }
}
