//! `bottle diff` and `bottle pull`: what an agent did to the project, and how it comes back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::closure::Closure;
use crate::error::{Context, Error, Kind, Result};
use crate::host::stderr::say;
use crate::launch::{Request, connect};
use crate::manifest::neutral;
use crate::plan::LaunchPlan;
use crate::state::{BottleDir, Roots};
use crate::workspace::{self, Baseline, Changes, Guards, What, transfer};

/// Show what a bottle changed of the project, running or not.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The bottle.
    name: String,
    /// Only the names of the files.
    #[arg(long)]
    stat: bool,
}

/// Bring a bottle's changes into the project, all of them or none.
///
/// Nothing is written when a file was changed here too; --branch puts the changes onto a branch of
/// its own, to merge.
#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// The bottle.
    name: String,
    /// As a commit on this new branch, without touching any file.
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
    /// Take changes of bottle.toml, agents/ and skills/ too, which say what a bottle may do.
    #[arg(long)]
    manifest_files: bool,
}

/// A bottle's work, unpacked.
struct Work {
    dir: BottleDir,
    baseline: Baseline,
    taken: TempDir,
    changes: Changes,
}

impl Work {
    fn of(name: &str) -> Result<Self> {
        let dir = Roots::from_environment()?.bottle(name)?;
        let baseline = Baseline::read(&dir.workspace(), name)?;
        let what = || "cannot unpack the bottle's work".to_owned();
        let near = dir.workspace();
        let taken = tempfile::tempdir_in(near.parent().unwrap_or(Path::new(".")))
            .context(Kind::Config, what)?;
        let tar = if dir.status().is_some_and(|s| s.alive) {
            let tar = taken.path().join("tar");
            crate::host::runtime::block_on(async {
                let request = Request::Exec {
                    argv: transfer::argv(),
                    tty: None,
                    term: None,
                    stdin: true,
                    cwd: None,
                    root: false,
                };
                transfer::take(connect(&dir, &request).await?, &baseline, &tar).await
            })?;
            tar
        } else {
            dir.work()
        };
        let into = taken.path().join("work");
        std::fs::create_dir(&into).context(Kind::Config, what)?;
        let refused = match File::open(&tar) {
            Ok(file) => workspace::unpack(file, &into, Guards::ON)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // Nothing was saved, as nothing had changed: so nothing is gone either.
                return Ok(Self { dir, baseline, taken, changes: Changes::default() });
            }
            Err(e) => return Err(e).context(Kind::Config, what),
        };
        let changes = workspace::changes(&into, &baseline, refused, Guards::ON)?;
        Ok(Self { dir, baseline, taken, changes })
    }

    fn content(&self) -> PathBuf {
        self.taken.path().join("work")
    }

    fn tell_refused(&self) {
        for (name, why) in self.changes.refused.iter().take(20) {
            say(format_args!("bottle: not taken: {}: {}", neutral(name), neutral(why)));
        }
        if self.changes.refused.len() > 20 {
            say(format_args!("bottle: not taken: {} more", self.changes.refused.len() - 20));
        }
    }

    /// Where the manifest's directory is in the project.
    fn manifest(&self) -> PathBuf {
        let plan = std::fs::read(self.dir.plan())
            .ok()
            .and_then(|json| serde_json::from_slice::<LaunchPlan>(&json).ok());
        let dir = plan.and_then(|p| p.manifest?.parent().map(Path::to_owned));
        dir.and_then(|d| d.strip_prefix(&self.baseline.root).ok().map(Path::to_owned))
            .unwrap_or_default()
    }
}

impl DiffArgs {
    pub(super) fn run(&self) -> Result<u8> {
        let work = Work::of(&self.name)?;
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
        work.tell_refused();
        if work.changes.list.is_empty() {
            say("bottle: nothing has changed");
        }
        Ok(0)
    }
}

/// The difference between the project's file and the bottle's, as git shows it; nothing in it
/// drives a terminal.
fn unified(work: &Work, path: &Path) -> Result<String> {
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
    // Outside of any repository: no attributes, no configuration, no filter of anybody's.
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CEILING_DIRECTORIES", "/")
        .current_dir(work.taken.path());
    command
        .args(["diff", "--no-index", "--no-ext-diff", "--no-textconv", "--no-color", "--"])
        .arg(side(&old))
        .arg(side(&new));
    let output = command.stdin(Stdio::null()).output().context(Kind::Engine, what)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Its headings name our temporary files.
    let body: Vec<&str> =
        text.lines().skip_while(|l| !l.starts_with("@@") && !l.starts_with("Binary")).collect();
    let clean =
        |line: &str| if line.starts_with("Binary") { "  (binary)".to_owned() } else { clean(line) };
    Ok(body.iter().map(|l| clean(l) + "\n").collect())
}

/// A line of text with its tabs, and nothing else that a terminal would act on.
fn clean(line: &str) -> String {
    line.split('\t').map(neutral).collect::<Vec<_>>().join("\t")
}

impl PullArgs {
    pub(super) fn run(&self) -> Result<u8> {
        let mut work = Work::of(&self.name)?;
        if !self.manifest_files {
            let inside = work.manifest();
            work.changes.without_manifest(&inside, Guards::ON);
        }
        work.tell_refused();
        for path in work.changes.running_by_itself() {
            say(format_args!(
                "bottle: look at it before you go on, it may run by itself: {}",
                neutral(&path.to_string_lossy())
            ));
        }
        let content = work.content();
        let n = work.changes.list.len();
        if let Some(branch) = &self.branch {
            if n == 0 {
                return Err(Error::new(Kind::Declined, "nothing has changed"));
            }
            let git = Closure::load()?.tools.git.path;
            let message = format!("Work of the bottle {}\n", self.name);
            workspace::commit(
                &git,
                &work.baseline.root,
                branch,
                &work.changes,
                &content,
                &message,
            )?;
            say(format_args!("bottle: {n} changes are on the branch {branch}"));
            let _ = std::fs::remove_file(work.dir.work());
            return Ok(0);
        }
        let outcome = workspace::apply(&work.changes, &content, &mut work.baseline, Guards::ON)?;
        if let Some(conflict) = workspace::conflict(&outcome, &self.name) {
            return Err(conflict);
        }
        work.baseline.write(&work.dir.workspace())?;
        if work.changes.refused.is_empty() {
            let _ = std::fs::remove_file(work.dir.work());
        }
        let already = if outcome.already > 0 {
            format!(", {} were here already", outcome.already)
        } else {
            String::new()
        };
        say(format_args!("bottle: {} changes pulled{already}", outcome.applied));
        Ok(0)
    }
}
