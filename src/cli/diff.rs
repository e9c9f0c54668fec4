//! `bottle diff`: shows what a bottle changed in the project.

use std::path::Path;

use super::unpulled::UnpulledWork;
use crate::closure::Closure;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::git::{self, Config};
use crate::host::stderr::note;
use crate::values::neutral;
use crate::workspace::ChangeKind;

/// Show what a bottle changed in the project, whether it is running or not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the bottle.
    name: String,
    /// Show only the names of changed files.
    #[arg(long)]
    stat: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let work = UnpulledWork::of(&self.name)?;
        for change in &work.changes.list {
            let path = neutral(&change.path.to_string_lossy());
            let letter = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Modified => 'M',
                ChangeKind::Deleted => 'D',
            };
            println!("{letter} {path}");
            if !self.stat {
                print!("{}", unified(&work, &change.path)?);
            }
        }
        work.print_refused();
        if work.changes.list.is_empty() {
            note("bottle: nothing has changed");
        }
        Ok(0)
    }
}

/// The difference between the project's file and the bottle's in git's format, with nothing in it
/// that a terminal would act on.
fn unified(work: &UnpulledWork, path: &Path) -> Result<String> {
    let what = || "cannot compare the bottle's work".to_owned();
    let none = Path::new("/dev/null");
    let (old, new) = (work.baseline.root.join(path), work.content().join(path));
    let side = |p: &Path| {
        if p.symlink_metadata().is_ok_and(|m| m.is_file()) { p.to_owned() } else { none.to_owned() }
    };
    let closure = Closure::load()?;
    // Outside of any repository, so that no attributes, configuration or filter applies.
    let git = git::command(&closure.tools.git.path, work.scratch(), Config::Repository)
        .env("GIT_CEILING_DIRECTORIES", "/")
        .args(["diff", "--no-index", "--no-ext-diff", "--no-textconv", "--no-color", "--"])
        .args([side(&old), side(&new)]);
    // It exits with 1 when the files differ.
    let output = git.output(git::DEADLINE).context(ErrorKind::Engine, what)?;
    let output = output
        .ok_or_else(|| Error::new(ErrorKind::Engine, format!("{}: git does not end", what())))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The headings name our temporary files, so they are left out.
    let body = text.lines().skip_while(|l| !l.starts_with("@@") && !l.starts_with("Binary"));
    let shown =
        |line: &str| if line.starts_with("Binary") { "  (binary)".to_owned() } else { clean(line) };
    Ok(body.map(|line| shown(line) + "\n").collect())
}

/// A line of text that keeps its tabs, and nothing else that a terminal would act on.
fn clean(line: &str) -> String {
    line.split('\t').map(neutral).collect::<Vec<_>>().join("\t")
}
