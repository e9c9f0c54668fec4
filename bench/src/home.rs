//! `bottle` processes in a home of their own.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use duct::{Expression, cmd};
use tempfile::TempDir;

use crate::process::{Process, timed};

/// The program `name` next to this one, or else on PATH.
pub fn beside_this_program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    beside.filter(|p| p.exists()).unwrap_or_else(|| name.into())
}

/// A home directory for bottles.
pub struct Home {
    dir: TempDir,
    binary: PathBuf,
}

impl Home {
    /// An empty home.
    pub fn new(binary: &Path) -> std::io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("bench").tempdir()?;
        for name in ["state", "run"] {
            std::fs::DirBuilder::new().mode(0o700).create(dir.path().join(name))?;
        }
        Ok(Self { dir, binary: binary.to_owned() })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The command `bottle ARGS…`.
    pub fn bottle(&self, args: &[&str]) -> Expression {
        self.bottle_in(self.path(), args)
    }

    /// The command `bottle ARGS…`, with `dir` as its working directory.
    pub fn bottle_in(&self, dir: &Path, args: &[&str]) -> Expression {
        cmd(&self.binary, args)
            .dir(dir)
            .env("HOME", self.path())
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
    }

    /// Runs `bottle ARGS…`. Returns its wall time in ms.
    pub fn timed(&self, args: &[&str]) -> Result<f64, String> {
        timed(self.bottle(args))
    }

    /// Starts a bottle that sleeps, and waits until commands can run in it.
    pub fn up(&self, name: &str) -> Result<Up, String> {
        self.up_in(self.path(), "demo", name)
    }

    /// As [`Self::up`], with `agent` of the manifest in `project`.
    pub fn up_in(&self, project: &Path, agent: &str, name: &str) -> Result<Up, String> {
        let options = ["launch", agent, "--yes", "--quiet", "--discard", "--name", name];
        let args = [&options[..], &["--", "sleep", "100000"]].concat();
        let up = Up(Process::start(self.bottle_in(project, &args))?);
        let began = Instant::now();
        while !self.path().join("run/bottle").join(name).join("control.sock").exists() {
            if began.elapsed() > Duration::from_secs(120) {
                return Err(format!("bottle {name} does not come up"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(up)
    }

    /// Number of files and processes that bottles left behind.
    pub fn leftovers(&self) -> usize {
        let sockets = std::fs::read_dir(self.path().join("run/bottle")).map_or(0, Iterator::count);
        let bottles = std::fs::read_dir(self.path().join("state/bottle/bottles"))
            .into_iter()
            .flatten()
            .flatten();
        let files = bottles
            .map(|b| {
                ["disk.img", "journal.jsonl"].iter().filter(|f| b.path().join(f).exists()).count()
            })
            .sum::<usize>();
        sockets + files + self.processes()
    }

    fn processes(&self) -> usize {
        let needle = self.path().to_string_lossy().into_owned();
        let argvs = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
        argvs.filter(|argv| String::from_utf8_lossy(argv).contains(&needle)).count()
    }
}

/// A running bottle. Dropping it tears it down.
pub struct Up(pub Process);

impl Drop for Up {
    fn drop(&mut self) {
        self.0.terminate();
    }
}
