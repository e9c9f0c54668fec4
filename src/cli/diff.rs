//! `bottle diff`: shows what a bottle changed in the project.

use std::path::Path;
use std::process::{Command, Stdio};

use super::unpulled::UnpulledWork;
use crate::closure::Closure;
use crate::error::{Context, Kind, Result};
use crate::host::stderr::say;
use crate::manifest::neutral;
use crate::workspace::What;

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
            let letter = match change.what {
                What::Added => 'A',
                What::Modified => 'M',
                What::Deleted => 'D',
            };
            println!("{letter} {path}");
            if !self.stat {
                print!("{}", unified(&work, &change.path)?);
            }
        }
        work.print_refused();
        if work.changes.list.is_empty() {
            say("bottle: nothing has changed");
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
    let git = Closure::load()?.tools.git.path;
    let mut command = Command::new(&git);
    command
        .env_clear()
        .env("GIT_EXEC_PATH", git.parent().unwrap_or(Path::new("/")).join("../lib/git-core"));
    // Outside of any repository, so that no attributes, configuration or filter applies.
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CEILING_DIRECTORIES", "/")
        .current_dir(work.scratch());
    command
        .args(["diff", "--no-index", "--no-ext-diff", "--no-textconv", "--no-color", "--"])
        .arg(side(&old))
        .arg(side(&new));
    let output = command.stdin(Stdio::null()).output().context(Kind::Engine, what)?;
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
