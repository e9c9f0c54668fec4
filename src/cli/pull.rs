//! `bottle pull`: brings a bottle's changes into the project.

use super::unpulled::UnpulledWork;
use crate::closure::Closure;
use crate::error::{Error, ErrorKind, Result};
use crate::host::stderr::note;
use crate::values::neutral;
use crate::workspace::{self, WorkspaceChecks};

/// Bring a bottle's changes into the project: all of them, or none.
///
/// Nothing is written when one of the changed files was changed here too. In that case, --branch
/// commits the changes to a branch of their own, for you to merge.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the bottle.
    name: String,
    /// Commit the changes to this new branch, without touching any file.
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
    /// Also take changes of bottle.toml, agents/ and skills/, which say what a bottle may do.
    #[arg(long)]
    manifest_files: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let mut work = UnpulledWork::of(&self.name)?;
        if !self.manifest_files {
            let folder = work.manifest_folder()?;
            work.changes.without_manifest(&folder, WorkspaceChecks::ALL);
        }
        work.print_refused();
        for path in work.changes.running_by_itself() {
            note(format_args!(
                "bottle: review this file before you go on, it may run by itself: {}",
                neutral(&path.to_string_lossy())
            ));
        }
        match &self.branch {
            Some(branch) => self.commit(&work, branch),
            None => self.apply(&mut work),
        }
    }

    fn commit(&self, work: &UnpulledWork, branch: &str) -> Result<u8> {
        let n = work.changes.list.len();
        if n == 0 {
            return Err(Error::new(ErrorKind::Declined, "nothing has changed"));
        }
        let git = Closure::load()?.tools.git.path;
        let (root, content) = (&work.baseline.root, work.content());
        let message = format!("Work of the bottle {}\n", self.name);
        workspace::commit(&git, root, branch, &work.changes, &content, &message)?;
        note(format_args!("bottle: {n} changes are on the branch {branch}"));
        let _ = std::fs::remove_file(work.dir.unpulled_tar());
        Ok(0)
    }

    fn apply(&self, work: &mut UnpulledWork) -> Result<u8> {
        let content = work.content();
        let outcome =
            workspace::apply(&work.changes, &content, &mut work.baseline, WorkspaceChecks::ALL)?;
        if let Some(conflict) = workspace::conflict(&outcome, &self.name) {
            return Err(conflict);
        }
        work.baseline.write(&work.dir.workspace())?;
        if work.changes.refused.is_empty() {
            let _ = std::fs::remove_file(work.dir.unpulled_tar());
        }
        let already = if outcome.already > 0 {
            format!(", {} were here already", outcome.already)
        } else {
            String::new()
        };
        note(format_args!("bottle: {} changes pulled{already}", outcome.applied));
        Ok(0)
    }
}
