//! Programs that the gate starts: each with nothing of the daemon's environment, confined to the
//! files that it needs, killed when nobody waits for it any more.

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

/// What of a child's standard error is kept, bytes.
const COMPLAINT: usize = 16 << 10;

/// Programs, by absolute path. Nothing is looked up in a PATH.
#[derive(Debug)]
pub struct Programs {
    /// `git`.
    pub git: PathBuf,
    /// Where git's own programs are.
    pub exec_path: PathBuf,
    /// OpenSSH's client.
    pub ssh: Option<PathBuf>,
    /// gitleaks.
    pub gitleaks: Option<PathBuf>,
    /// `bottle-bundle`, whose `confine` every child is started through; absent in this crate's own
    /// tests only.
    pub launcher: Option<PathBuf>,
    /// Directories of libraries, beside the usual ones.
    pub libs: Vec<PathBuf>,
    /// An empty directory: everybody's home.
    pub home: PathBuf,
}

/// Where libraries and loaders are.
const LIBS: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store"];

/// What name lookup and TLS read.
pub(super) const SYSTEM: &[&str] = &[
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/static/ssl",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

impl Programs {
    /// What has to be executable and readable for all of them.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut all = vec![self.git.clone(), self.exec_path.clone()];
        all.extend(
            self.ssh.iter().chain(&self.gitleaks).chain(&self.launcher).chain(&self.libs).cloned(),
        );
        all.extend(LIBS.iter().map(PathBuf::from));
        all.retain(|p| p.exists());
        all
    }
}

/// What network a child has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// None, and no socket of any kind.
    Nothing,
    /// Outgoing internet connections.
    Outgoing,
    /// The same, and Unix sockets: for ssh with a key that only the daemon's agent holds.
    Agent,
}

/// A call of a program, to be started.
#[derive(Debug, Clone)]
pub struct Call {
    programs: Arc<Programs>,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    config: Vec<(String, String)>,
    ro: Vec<PathBuf>,
    rw: Vec<PathBuf>,
    net: Net,
    cwd: PathBuf,
    keep: Option<Arc<OwnedFd>>,
}

/// git's settings, whatever it is to do. They come in its environment: no file that anybody could
/// change is read.
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

impl Call {
    /// git on the repository `mirror`, which it may read.
    pub fn git(programs: &Arc<Programs>, mirror: &Path) -> Self {
        let mut call = Self::program(programs, &programs.git, mirror);
        call.ro = vec![mirror.to_owned(), programs.home.clone()];
        call.config = CONFIG.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        call.env("GIT_DIR", mirror)
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

    /// Another program, in the directory `cwd`.
    pub fn program(programs: &Arc<Programs>, program: &Path, cwd: &Path) -> Self {
        let call = Self {
            programs: programs.clone(),
            program: program.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            config: Vec::new(),
            ro: Vec::new(),
            rw: Vec::new(),
            net: Net::Nothing,
            cwd: cwd.to_owned(),
            keep: None,
        };
        call.env("HOME", &programs.home).env("LC_ALL", "C").env("PATH", &programs.exec_path)
    }

    /// The same once more, for other arguments.
    #[must_use]
    pub fn again(&self) -> Self {
        self.clone()
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

    /// Sets a variable.
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

    /// May read this.
    #[must_use]
    pub fn ro(mut self, path: &Path) -> Self {
        self.ro.push(path.to_owned());
        self
    }

    /// May write here.
    #[must_use]
    pub fn rw(mut self, path: &Path) -> Self {
        self.rw.push(path.to_owned());
        self
    }

    /// New objects are in, or go to, `quarantine`; the mirror's are there beside.
    #[must_use]
    pub fn objects(self, quarantine: &Path) -> Self {
        self.env("GIT_OBJECT_DIRECTORY", quarantine)
    }

    /// Has this network, and this open file.
    #[must_use]
    pub fn net(mut self, net: Net, keep: Option<Arc<OwnedFd>>) -> Self {
        (self.net, self.keep) = (net, keep);
        self
    }

    fn command(&self) -> Command {
        let mut command = match &self.programs.launcher {
            None => Command::new(&self.program),
            Some(launcher) => {
                let mut command = Command::new(launcher);
                command
                    .arg("confine")
                    .arg("--best-effort")
                    .arg("--parent")
                    .arg(std::process::id().to_string());
                match self.net {
                    Net::Nothing => drop(command.arg("--no-network")),
                    Net::Outgoing => drop(command.arg("--outgoing")),
                    Net::Agent => {}
                }
                if let Some(fd) = &self.keep {
                    command.arg("--keep-fd").arg(fd.as_raw_fd().to_string());
                }
                let system = SYSTEM
                    .iter()
                    .map(PathBuf::from)
                    .filter(|p| self.net != Net::Nothing && p.exists());
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
        };
        command
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .current_dir(&self.cwd);
        if !self.config.is_empty() {
            command.env("GIT_CONFIG_COUNT", self.config.len().to_string());
            for (n, (key, value)) in self.config.iter().enumerate() {
                command
                    .env(format!("GIT_CONFIG_KEY_{n}"), key)
                    .env(format!("GIT_CONFIG_VALUE_{n}"), value);
            }
        }
        command.kill_on_drop(true);
        if let Some(fd) = self.keep.clone() {
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

    /// Starts it with pipes for all three.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self) -> io::Result<Running> {
        let mut child = self
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pipe = |what| io::Error::other(format!("no {what}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| pipe("stdout"))?;
        let stderr = child.stderr.take().ok_or_else(|| pipe("stderr"))?;
        let complaint = tokio::spawn(async move {
            // Reading on keeps a child that says much from standing still.
            let (kept, _) = read_up_to(stderr, COMPLAINT).await;
            String::from_utf8_lossy(&kept).into_owned()
        });
        Ok(Running { child, stdin, stdout, complaint })
    }

    /// Runs it with `input` as its standard input, and gives at most `most` bytes of its output.
    ///
    /// # Errors
    /// It cannot be started, says more, or does not end in time.
    pub async fn run(&self, input: Vec<u8>, most: usize, deadline: Duration) -> io::Result<Ended> {
        let Running { mut child, stdin, stdout, complaint } = self.start()?;
        let whole = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    let _ = stdin.write_all(&input).await; // who does not read to the end says so by its status
                }
            };
            let ((), (output, over)) = tokio::join!(feed, read_up_to(stdout, most));
            let status = child.wait().await?;
            if over {
                return Err(io::Error::other("a child says too much"));
            }
            Ok(Ended { status, output, complaint: told(complaint).await })
        };
        tokio::time::timeout(deadline, whole)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

async fn read_up_to(mut from: impl AsyncRead + Unpin, most: usize) -> (Vec<u8>, bool) {
    let (mut kept, mut over) = (Vec::new(), false);
    let mut piece = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        let room = most.saturating_sub(kept.len()).min(n);
        over |= room < n;
        kept.extend_from_slice(&piece[..room]);
    }
    (kept, over)
}

async fn told(complaint: JoinHandle<String>) -> String {
    let said = complaint.await.unwrap_or_default();
    // What `confine --best-effort` says, see there.
    said.lines()
        .filter(|l| !l.starts_with("confine: "))
        .fold(String::new(), |all, l| all + l + "\n")
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    pub(super) child: Child,
    /// Its standard input, until it is taken.
    pub stdin: Option<ChildStdin>,
    /// Its standard output.
    pub stdout: ChildStdout,
    pub(super) complaint: JoinHandle<String>,
}

impl Running {
    /// Waits for its end, its output having been read.
    ///
    /// # Errors
    /// The system cannot say how it ended.
    pub async fn end(mut self) -> io::Result<Ended> {
        drop(self.stdin.take());
        drop(self.stdout);
        let status = self.child.wait().await?;
        Ok(Ended { status, output: Vec::new(), complaint: told(self.complaint).await })
    }
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: Vec<u8>,
    /// The beginning of its standard error.
    pub complaint: String,
}

impl Ended {
    /// What it complained about, in one line for people: without what a terminal would act on, and
    /// without the host's paths.
    #[must_use]
    pub fn reason(&self) -> String {
        let lines: Vec<&str> = self
            .complaint
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with("hint:"))
            .collect();
        let fatal = lines.iter().position(|l| {
            l.starts_with("fatal:") || l.starts_with("error:") || l.contains("ERROR:")
        });
        let line = match fatal {
            // ssh says why right before git says that.
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
        bottle_policy::text::remove(&text, 300)
    }
}
