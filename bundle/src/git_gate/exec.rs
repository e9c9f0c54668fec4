//! Child processes. Each gets nothing of the daemon's environment, is confined to the files that it
//! needs, and is killed when nobody waits for it any more.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::programs::{Programs, SYSTEM_FILES};
use crate::git_gate::refusal::Refusal;

/// How much of a child's standard error is kept, in bytes.
const STDERR_BYTES: usize = 16 << 10;
/// Most characters of [`CommandOutput::reason`].
const REASON_CHARS: usize = 300;

/// What network a child has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkAccess {
    /// None, and no socket of any kind.
    Nothing,
    /// Outgoing internet connections.
    Outgoing,
    /// Outgoing internet connections and Unix sockets, for an ssh that uses the daemon's agent.
    Agent,
}

/// A child process to be started.
#[derive(Debug, Clone)]
pub struct ConfinedCommand {
    programs: Arc<Programs>,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    config: Vec<(String, String)>,
    ro: Vec<PathBuf>,
    rw: Vec<PathBuf>,
    network: NetworkAccess,
    cwd: PathBuf,
    inherited_fd: Option<Arc<OwnedFd>>,
}

/// git's settings for every call. They are passed in the environment, so that git reads no file
/// that anybody could change.
const CONFIG: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.bigFileThreshold", "16m"),
    ("core.packedGitWindowSize", "16m"),
    ("core.packedGitLimit", "128m"),
    ("pack.windowMemory", "64m"),
    ("pack.threads", "2"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("safe.directory", "*"),
    ("protocol.allow", "never"),
    ("fetch.unpackLimit", "1"),
    ("fetch.writeCommitGraph", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("push.recurseSubmodules", "no"),
    ("push.default", "nothing"),
    ("push.followTags", "false"),
    ("push.gpgSign", "false"),
    ("uploadpack.allowFilter", "true"),
    ("transfer.hideRefs", "refs/gate"),
    ("log.showSignature", "false"),
    ("credential.helper", ""),
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("advice.pushUpdateRejected", "false"),
];

impl ConfinedCommand {
    /// git on the repository `git_dir`, which it may read.
    pub fn git(programs: &Arc<Programs>, git_dir: &Path) -> Self {
        let mut command = Self::program(programs, &programs.git, git_dir);
        command.ro = vec![git_dir.to_owned(), programs.home.clone()];
        command.config = CONFIG.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        command
            .env("GIT_DIR", git_dir)
            .env("GIT_EXEC_PATH", &programs.exec_path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
    }

    /// Another program, run in the directory `cwd`.
    pub fn program(programs: &Arc<Programs>, program: &Path, cwd: &Path) -> Self {
        let command = Self {
            programs: programs.clone(),
            program: program.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            config: Vec::new(),
            ro: Vec::new(),
            rw: Vec::new(),
            network: NetworkAccess::Nothing,
            cwd: cwd.to_owned(),
            inherited_fd: None,
        };
        command.env("HOME", &programs.home).env("LC_ALL", "C").env("PATH", &programs.exec_path)
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Appends an argument.
    #[must_use]
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sets a variable of git's configuration.
    #[must_use]
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.push((key.into(), value.into()));
        self
    }

    /// Allows reading `path`.
    #[must_use]
    pub fn ro(mut self, path: &Path) -> Self {
        self.ro.push(path.to_owned());
        self
    }

    /// Allows reading and writing `path`.
    #[must_use]
    pub fn rw(mut self, path: &Path) -> Self {
        self.rw.push(path.to_owned());
        self
    }

    /// Makes git read and write objects in `quarantine`. It also sees the mirror's objects, which
    /// are the quarantine's alternates.
    #[must_use]
    pub fn objects(self, quarantine: &Path) -> Self {
        self.env("GIT_OBJECT_DIRECTORY", quarantine)
    }

    /// Gives it network access, and an open file to inherit.
    #[must_use]
    pub fn network(mut self, network: NetworkAccess, inherited_fd: Option<Arc<OwnedFd>>) -> Self {
        (self.network, self.inherited_fd) = (network, inherited_fd);
        self
    }

    /// Starts it with pipes for all three standard streams.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self) -> io::Result<RunningCommand> {
        let mut child = self
            .to_command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pipe = |what| io::Error::other(format!("no {what}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| pipe("stdout"))?;
        let stderr = child.stderr.take().ok_or_else(|| pipe("stderr"))?;
        let stderr = tokio::spawn(async move {
            // All of it is read, so that the child is not blocked by a full pipe.
            let (kept, _) = read_up_to(stderr, STDERR_BYTES).await;
            without_launcher_lines(&String::from_utf8_lossy(&kept))
        });
        Ok(RunningCommand { stdin, stdout, process: Process { child, stderr } })
    }

    /// Runs it with `input` as its standard input. Its standard output may have at most
    /// `max_output` bytes.
    ///
    /// # Errors
    /// It cannot be started, writes more, or does not end before `deadline`.
    pub async fn run(
        &self,
        input: Vec<u8>,
        max_output: usize,
        deadline: Duration,
    ) -> io::Result<CommandOutput> {
        let RunningCommand { stdin, stdout, process } = self.start()?;
        let run = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A child that stops reading reports why by its exit status.
                    let _ = stdin.write_all(&input).await;
                }
            };
            let ((), (stdout, over)) = tokio::join!(feed, read_up_to(stdout, max_output));
            let output = process.wait().await?;
            if over {
                return Err(io::Error::other("a child wrote more output than allowed"));
            }
            Ok(CommandOutput { stdout, ..output })
        };
        tokio::time::timeout(deadline, run)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Like [`ConfinedCommand::run`], for a child that must succeed. `what` completes the sentence
    /// "the gate could not …".
    ///
    /// # Errors
    /// [`Rule::Host`](crate::git_gate::refusal::Rule::Host).
    pub async fn run_ok(
        &self,
        input: Vec<u8>,
        max_output: usize,
        deadline: Duration,
        what: &str,
    ) -> Result<Vec<u8>, Refusal> {
        match self.run(input, max_output, deadline).await {
            Ok(output) if output.status.success() => Ok(output.stdout),
            Ok(output) => Err(Refusal::host(what, &output.reason())),
            Err(e) => Err(Refusal::host(what, &e)),
        }
    }

    fn to_command(&self) -> Command {
        let mut command = match &self.programs.launcher {
            None => Command::new(&self.program),
            Some(launcher) => self.launched_by(launcher),
        };
        command
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .current_dir(&self.cwd)
            .kill_on_drop(true);
        if !self.config.is_empty() {
            command.env("GIT_CONFIG_COUNT", self.config.len().to_string());
            for (n, (key, value)) in self.config.iter().enumerate() {
                command
                    .env(format!("GIT_CONFIG_KEY_{n}"), key)
                    .env(format!("GIT_CONFIG_VALUE_{n}"), value);
            }
        }
        if let Some(fd) = self.inherited_fd.clone() {
            // SAFETY: between fork and exec, fcntl only, which is async-signal-safe; the file is
            // open as long as the closure.
            unsafe {
                command.pre_exec(move || {
                    let done = libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0);
                    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
                });
            }
        }
        command
    }

    /// `bottle-bundle confine … -- PROGRAM`.
    fn launched_by(&self, launcher: &Path) -> Command {
        let mut command = Command::new(launcher);
        command
            .arg("confine")
            .arg("--best-effort")
            .arg("--parent")
            .arg(std::process::id().to_string());
        match self.network {
            NetworkAccess::Nothing => drop(command.arg("--no-network")),
            NetworkAccess::Outgoing => drop(command.arg("--outgoing")),
            NetworkAccess::Agent => {}
        }
        if let Some(fd) = &self.inherited_fd {
            command.arg("--keep-fd").arg(fd.as_raw_fd().to_string());
        }
        let system = SYSTEM_FILES
            .iter()
            .map(PathBuf::from)
            .filter(|p| self.network != NetworkAccess::Nothing && p.exists());
        for (option, paths) in [
            ("--ro", self.ro.iter().cloned().chain(system).collect()),
            ("--rx", self.programs.files()),
            ("--rw", self.rw.clone()),
        ] {
            if !paths.is_empty() {
                command.arg(option).args(paths);
            }
        }
        command.arg("--").arg(&self.program);
        command
    }
}

/// Reads `from` to its end. Returns the first `max` bytes, and whether there were more.
async fn read_up_to(mut from: impl AsyncRead + Unpin, max: usize) -> (Vec<u8>, bool) {
    let (mut kept, mut over) = (Vec::new(), false);
    let mut piece = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        let room = max.saturating_sub(kept.len()).min(n);
        over |= room < n;
        kept.extend_from_slice(&piece[..room]);
    }
    (kept, over)
}

/// Removes what `confine --best-effort` itself writes to standard error.
fn without_launcher_lines(stderr: &str) -> String {
    stderr
        .lines()
        .filter(|l| !l.starts_with("confine: "))
        .fold(String::new(), |all, l| all + l + "\n")
}

/// A started child.
#[derive(Debug)]
pub struct RunningCommand {
    /// Its standard input, until it is taken.
    pub stdin: Option<ChildStdin>,
    /// Its standard output.
    pub stdout: ChildStdout,
    /// The process.
    pub process: Process,
}

/// A child without its pipes. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stderr: JoinHandle<String>,
}

impl RunningCommand {
    /// Closes its pipes and waits for its end, see [`Process::wait`].
    ///
    /// # Errors
    /// The system cannot tell how it ended.
    pub async fn end(self) -> io::Result<CommandOutput> {
        let Self { stdin, stdout, process } = self;
        drop((stdin, stdout));
        process.wait().await
    }
}

impl Process {
    /// Waits for its end. [`CommandOutput::stdout`] is empty.
    ///
    /// # Errors
    /// The system cannot tell how it ended.
    pub async fn wait(mut self) -> io::Result<CommandOutput> {
        let status = self.child.wait().await?;
        let stderr = self.stderr.await.unwrap_or_default();
        Ok(CommandOutput { status, stdout: Vec::new(), stderr })
    }
}

/// How a child ended, and what it wrote.
#[derive(Debug)]
pub struct CommandOutput {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The first 16 KiB of its standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// Why it failed, in one line for people: the decisive line of standard error, without control
    /// characters and without paths of the host.
    #[must_use]
    pub fn reason(&self) -> String {
        let lines: Vec<&str> = self
            .stderr
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with("hint:"))
            .collect();
        let fatal = lines.iter().position(|l| {
            l.starts_with("fatal:") || l.starts_with("error:") || l.contains("ERROR:")
        });
        let line = match fatal {
            // ssh gives the reason in the line before this one of git's.
            Some(at @ 1..) if lines[at].contains("Could not read from remote repository") => {
                lines[at - 1]
            }
            Some(at) => lines[at],
            None => lines.last().copied().unwrap_or("no reason was given"),
        };
        let words = line.split_whitespace().map(|word| {
            let is_path = word.trim_start_matches(['\'', '"', '(']).starts_with('/');
            if is_path { "(path)" } else { word }
        });
        let text = words.collect::<Vec<_>>().join(" ");
        bottle_policy::text::remove(&text, REASON_CHARS)
    }
}
