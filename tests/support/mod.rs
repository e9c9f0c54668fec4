//! Real `bottle` processes in homes of their own.

pub mod browser;
pub mod terminal;
pub mod tmux;

use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest time for anything that these tests wait for: emulation on a loaded machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A home directory with its own XDG directories and a project in it.
pub struct Home {
    dir: TempDir,
    binary: PathBuf,
}

impl Home {
    /// An empty home.
    pub fn new() -> Self {
        // Short: socket paths are limited to 107 bytes.
        let dir = tempfile::Builder::new().prefix("b").tempdir().expect("a home");
        for name in ["state", "run", "project"] {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(dir.path().join(name))
                .expect("its directories");
        }
        Self {
            dir,
            binary: std::env::var_os("BOTTLE_BINARY")
                .map_or_else(|| env!("CARGO_BIN_EXE_bottle").into(), PathBuf::from),
        }
    }

    /// A home whose `bottle` is the build with broken guards.
    pub fn faulty() -> Self {
        let binary = std::env::var_os("BOTTLE_FAULTY")
            .expect("BOTTLE_FAULTY names a `bottle` built with --features fault-injection");
        Self { binary: binary.into(), ..Self::new() }
    }

    /// A home with this `bottle.toml`.
    pub fn with_manifest(text: &str) -> Self {
        let home = Self::new();
        std::fs::write(home.project().join("bottle.toml"), text).expect("a manifest");
        home
    }

    pub fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state/bottle")
    }

    pub fn runtime(&self, slug: &str) -> PathBuf {
        self.dir.path().join("run/bottle").join(slug)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `bottle ARGS…` in the project, with nothing of this process's environment but the closure
    /// and PATH. Launches are on the engine that `BOTTLE_TEST_ENGINE` names, if it does.
    pub fn bottle(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        match (args.split_first(), engine()) {
            (Some((&"launch", rest)), Some(engine)) if !rest.contains(&"--engine") => {
                command.args(["launch", "--engine", engine]).args(rest);
            }
            _ => {
                command.args(args);
            }
        }
        command.current_dir(self.project()).env_clear().stdin(Stdio::null());
        command
            .env("HOME", self.path())
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("XDG_RUNTIME_DIR", self.path().join("run"));
        for name in ["BOTTLE_CLOSURE", "PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Runs `bottle ARGS…` to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        output_within(self.bottle(args), PATIENCE)
    }

    /// Starts `bottle launch --yes ARGS…` without waiting.
    pub fn start(&self, slug: &str, args: &[&str]) -> Running<'_> {
        self.start_with(slug, args, &[])
    }

    /// With these variables too.
    pub fn start_with(&self, slug: &str, args: &[&str], env: &[(&str, &str)]) -> Running<'_> {
        let mut all = vec!["launch", "--yes"];
        all.extend_from_slice(args);
        let mut command = self.bottle(&all);
        command.envs(env.iter().copied());
        // Files, not pipes: nobody reads while the bottle runs.
        let log = std::fs::File::create(self.path().join(format!("{slug}.out"))).expect("a log");
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("its copy")).stderr(log);
        let child = command.spawn().expect("bottle starts");
        Running { home: self, slug: slug.to_owned(), child }
    }

    /// Starts a launch that does nothing, and waits until it is up.
    pub fn up(&self, slug: &str, args: &[&str]) -> Running<'_> {
        let mut all = args.to_vec();
        all.extend(["--name", slug, "--", "sleep", "1000"]);
        let mut running = self.start(slug, &all);
        running.wait_until_up();
        running
    }

    /// The state that `bottle list` gives for `slug`.
    pub fn listed(&self, slug: &str) -> Option<String> {
        let rows: serde_json::Value =
            serde_json::from_slice(&self.run(&["list", "--json"]).stdout).ok()?;
        let row = rows.as_array()?.iter().find(|r| r["name"] == slug)?.clone();
        row["state"].as_str().map(str::to_owned)
    }

    /// What must never be left after a teardown: sockets, the disk, the journal, processes that
    /// name this home.
    pub fn leftovers(&self, slug: &str) -> Vec<String> {
        let mut left: Vec<String> = processes_naming(self.path())
            .iter()
            .map(|(pid, argv)| format!("process {pid}: {argv}"))
            .collect();
        let state = self.state().join("bottles").join(slug);
        for path in [
            self.runtime(slug),
            state.join("disk.img"),
            state.join("machine"),
            state.join("journal.jsonl"),
        ] {
            if path.exists() {
                left.push(path.display().to_string());
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        left.extend(
            mounts
                .lines()
                .filter(|l| l.contains(&*self.path().to_string_lossy()))
                .map(str::to_owned),
        );
        left
    }
}

/// A bottle that was started.
pub struct Running<'h> {
    pub home: &'h Home,
    pub slug: String,
    child: Child,
}

impl Running<'_> {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pid")
    }

    /// Waits until the agent runs.
    pub fn wait_until_up(&mut self) {
        let began = Instant::now();
        while self.home.listed(&self.slug).as_deref() != Some("running") {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("the launch ended ({status}):\n{}", self.said());
            }
            patient(began, || format!("not up:\n{}", self.said()));
            // Where the machine under this one is emulated, too, looking is what it has no time
            // for.
            std::thread::sleep(Duration::from_millis(if engine() == Some("smolvm") {
                2000
            } else {
                50
            }));
        }
    }

    /// Standard output and error so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.home.path().join(format!("{}.out", self.slug)))
            .unwrap_or_default()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("signal");
    }

    /// The agent has read all that there is on its standard input.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            patient(began, || format!("does not end:\n{}", self.said()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `bottle exec SLUG sh -c SCRIPT`, as root or as the agent.
    pub fn sh(&self, root: bool, script: &str) -> Output {
        let mut args = vec!["exec"];
        if root {
            args.push("--root");
        }
        args.extend([self.slug.as_str(), "--", "bash", "-c", script]);
        self.home.run(&args)
    }

    /// Tears it down and requires that nothing is left.
    pub fn stop(mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait();
        assert_eq!(self.home.leftovers(&self.slug), Vec::<String>::new());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(self.pid()),
                nix::sys::signal::Signal::SIGTERM,
            );
            let _ = self.child.wait();
        }
    }
}

/// The engine under test, where it is not the default one.
pub fn engine() -> Option<&'static str> {
    static ENGINE: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("BOTTLE_TEST_ENGINE").ok());
    ENGINE.as_deref()
}

/// Processes whose command line names `path`, or whose mounts do, other than this one.
pub fn processes_naming(path: &Path) -> Vec<(i32, String)> {
    let needle = path.to_string_lossy().into_owned();
    let name = format!("/{}/", path.file_name().expect("a name").to_string_lossy());
    let pids = std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| pid != i32::try_from(std::process::id()).expect("pid"))
        .filter_map(|pid| {
            let argv =
                String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).ok()?)
                    .replace('\0', " ");
            // In a mount namespace of its own a process may see the directory under another name.
            let mounts =
                std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            (argv.contains(&needle) || mounts.contains(&name)).then_some((pid, argv))
        })
        .collect()
}

/// The standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts an exit code, with everything that was said when it differs.
pub fn assert_code(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout:\n{}\nstderr:\n{}",
        stdout(output),
        stderr(output)
    );
}

/// Fails once `began` is longer ago than [`PATIENCE`].
fn patient(began: Instant, what: impl FnOnce() -> String) {
    if began.elapsed() > PATIENCE {
        silent(&what(), &threads());
    }
}

/// Fails, saying what every thread of this machine did. Where this machine is emulated and the
/// bottle's in it is so too, it may be the emulation that stands still: then nothing after it would
/// say anything, and nix/nested/run.nix is told to begin anew.
fn silent(what: &str, threads: &str) -> ! {
    if std::env::var_os("BOTTLE_TEST_NESTED").is_some() {
        eprintln!("{what}\n{threads}");
        std::process::exit(75);
    }
    panic!("{what}\n{threads}");
}

/// Every thread but the kernel's: its state, its ticks of processor time, where in the kernel it
/// waits, and its program; and whether it had more ticks a second later.
fn threads() -> String {
    let all = || -> std::collections::BTreeMap<PathBuf, (String, u64)> {
        let dirs = |at: &Path| {
            std::fs::read_dir(at)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .collect::<Vec<_>>()
        };
        let tasks =
            dirs(Path::new("/proc")).into_iter().flat_map(|process| dirs(&process.join("task")));
        tasks
            .filter_map(|task| {
                let stat = std::fs::read_to_string(task.join("stat")).ok()?;
                let (name, rest) = stat.split_once(" (")?.1.rsplit_once(") ")?;
                let fields: Vec<_> = rest.split(' ').collect();
                let ticks =
                    fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
                let argv = std::fs::read_to_string(task.join("cmdline"))
                    .ok()
                    .filter(|a| !a.is_empty())?
                    .replace('\0', " ");
                let waits = std::fs::read_to_string(task.join("wchan")).unwrap_or_default();
                let argv: String = argv.chars().take(120).collect();
                Some((task, (format!("{} {ticks} {waits} {name}: {argv}", fields.first()?), ticks)))
            })
            .collect()
    };
    let before = all();
    std::thread::sleep(Duration::from_secs(1));
    let after = all();
    let line = |(task, (said, ticks)): (&PathBuf, &(String, u64))| {
        let more = before.get(task).map_or(0, |(_, earlier)| ticks - earlier);
        format!("  {} +{more} {said}\n", task.display())
    };
    after.iter().map(line).collect()
}

/// Polls until `done`, at most [`PATIENCE`].
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    until(Duration::from_millis(10), || format!("never: {what}"), || done().then_some(()));
}

/// What `look` finds in the end, looking after every `pause`, at most [`PATIENCE`]; `what` says
/// what was not found.
pub fn until<T>(
    pause: Duration,
    what: impl Fn() -> String,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        patient(began, &what);
        std::thread::sleep(pause);
    }
}

/// Runs a command, killing it after `limit`.
pub fn output_within(mut command: Command, limit: Duration) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let drain = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            bytes
        })
    };
    let out = drain(Box::new(child.stdout.take().expect("stdout")));
    let err = drain(Box::new(child.stderr.take().expect("stderr")));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if began.elapsed() > limit {
            let threads = threads();
            let _ = child.kill();
            let _ = child.wait();
            silent(&format!("{command:?} took longer than {limit:?}"), &threads);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Output { status, stdout: out.join().expect("stdout"), stderr: err.join().expect("stderr") }
}
