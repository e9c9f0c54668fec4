//! `bottle` processes in a home of their own.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The program `name` next to this one, else the one on PATH.
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
    /// An empty one.
    pub fn new(binary: &Path) -> std::io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("bench").tempdir()?;
        for name in ["state", "run"] {
            std::fs::DirBuilder::new().mode(0o700).create(dir.path().join(name))?;
        }
        Ok(Self { dir, binary: binary.to_owned() })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `bottle ARGS…`, silent.
    pub fn bottle(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir(self.path()).stdin(Stdio::null()).stdout(Stdio::null());
        command
            .env("HOME", self.path())
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("XDG_RUNTIME_DIR", self.path().join("run"));
        command
    }

    /// Runs `bottle ARGS…`; ms it took.
    pub fn timed(&self, args: &[&str]) -> Result<f64, String> {
        timed(self.bottle(args))
    }

    /// Starts a bottle that sleeps and waits until commands can run in it.
    pub fn up(&self, name: &str) -> Result<Up, String> {
        self.up_in(self.path(), "demo", name)
    }

    /// The same with `agent` of the manifest in `project`.
    pub fn up_in(&self, project: &Path, agent: &str, name: &str) -> Result<Up, String> {
        let mut command = self.bottle(&[
            "launch",
            agent,
            "--yes",
            "--quiet",
            "--discard",
            "--name",
            name,
            "--",
            "sleep",
            "100000",
        ]);
        command.current_dir(project);
        let child = command.spawn().map_err(|e| e.to_string())?;
        let up = Up(child);
        let began = Instant::now();
        while !self.path().join("run/bottle").join(name).join("control.sock").exists() {
            if began.elapsed() > Duration::from_secs(120) {
                return Err(format!("bottle {name} does not come up"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(up)
    }

    /// Files and processes of bottles that are left.
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

/// Runs a command to its end; ms it took.
pub fn timed(mut command: Command) -> Result<f64, String> {
    let began = Instant::now();
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    if status.success() { Ok(took) } else { Err(format!("{command:?} failed ({status})")) }
}

/// A bottle that runs; dropping it tears it down.
pub struct Up(pub Child);

impl Drop for Up {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(0));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}
