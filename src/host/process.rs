//! Child processes: argv only, an empty environment, their own process group, and a deadline or an
//! owner.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use zeroize::Zeroizing;

use crate::error::{Context, Error, Kind, Result};
use crate::state::{Journal, ProcessId, Step};

/// Most that is kept of what a daemon says on standard error, in bytes.
const LOG_LIMIT: usize = 1 << 20;
/// Room for one hand-over, in bytes.
const SECRETS_LIMIT: usize = 1 << 20;
/// Longest time in which a daemon takes a line.
const COMMAND_DEADLINE: Duration = Duration::from_secs(5);
/// Longest line that a daemon says, in bytes.
const REPORT_LIMIT: u64 = 4096;

/// A program to start.
#[derive(Debug)]
pub struct Program {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    keep: Vec<OwnedFd>,
}

/// A started daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    said: Option<JoinHandle<()>>,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    /// It was given secrets, so it is the one to talk to about them.
    trusted: bool,
}

/// Both ends of a daemon's conversation after its start. The daemon ends when this is dropped.
#[derive(Debug)]
pub struct Pipe {
    /// Lines to the daemon.
    pub commands: Commands,
    /// Lines from the daemon.
    pub reports: Reports,
}

/// The standard input of a daemon that was handed secrets.
#[derive(Debug)]
pub struct Commands {
    name: String,
    stdin: ChildStdin,
}

/// The standard output of such a daemon.
#[derive(Debug)]
pub struct Reports(BufReader<ChildStdout>);

impl Program {
    /// `name` is what the operator reads, `program` the file to run.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            keep: Vec::new(),
        }
    }

    /// Adds one argument. Arguments are public: every user of the machine can read them.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its otherwise empty environment.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name, value.as_ref().to_owned()));
        self
    }

    /// Trusts the CAs that the operator's environment names.
    #[must_use]
    pub fn with_host_roots(self) -> Self {
        ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().fold(self, |program, name| {
            match std::env::var_os(name) {
                Some(value) => program.env(name, value),
                None => program,
            }
        })
    }

    /// Hands `fd` to the program under the same number, which is returned.
    pub fn keep_fd(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.keep.push(fd);
        number
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(n, v)| (n, v)))
            .process_group(0)
            .kill_on_drop(true);
        die_with_parent(&mut command);
        let kept: Vec<RawFd> = self.keep.iter().map(AsRawFd::as_raw_fd).collect();
        if !kept.is_empty() {
            let inherit = move || {
                for fd in &kept {
                    // SAFETY: the descriptor is open: `self.keep` owns it and outlives the spawn.
                    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
                    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map_err(std::io::Error::from)?;
                }
                Ok(())
            };
            // SAFETY: between fork and exec only fcntl(2) is called, which is async-signal-safe;
            // nothing is allocated.
            unsafe { command.pre_exec(inherit) };
        }
        tracing::debug!(program = %self.program.display(), args = ?self.args, "spawn {}", self.name);
        command
    }

    /// Runs to the end and returns standard output.
    ///
    /// # Errors
    /// `kind` when it cannot start, fails (with the last line of its standard error) or takes
    /// longer than `deadline`.
    pub async fn run(self, deadline: Duration, kind: Kind) -> Result<Vec<u8>> {
        let running = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output();
        self.outcome(tokio::time::timeout(deadline, running).await, deadline, kind)
    }

    fn outcome(
        &self,
        ran: Result<std::io::Result<std::process::Output>, Elapsed>,
        deadline: Duration,
        kind: Kind,
    ) -> Result<Vec<u8>> {
        let name = &self.name;
        let output = ran
            .map_err(|_| {
                Error::new(kind, format!("{name} did not finish in {} s", deadline.as_secs()))
            })?
            .context(kind, || format!("cannot run {name}"))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::new(kind, format!("{name} failed ({}): {}", output.status, last_line(&said))))
    }

    /// Runs to the end with `secrets` as the one line of its standard input; they are wiped
    /// afterwards.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub async fn run_with(
        self,
        secrets: &impl serde::Serialize,
        deadline: Duration,
        kind: Kind,
    ) -> Result<Vec<u8>> {
        let name = &self.name;
        let line = secret_line(secrets)
            .context(Kind::Internal, || format!("cannot hand the secrets to {name}"))?;
        let running = async {
            let mut child = self
                .command()
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // One that ends before it has read all says why itself.
                let _ = write_line(&mut stdin, &line).await;
            }
            child.wait_with_output().await
        };
        self.outcome(tokio::time::timeout(deadline, running).await, deadline, kind)
    }

    /// Starts a daemon whose standard error goes to `log` (mode 0600, truncated), and journals it.
    ///
    /// # Errors
    /// `Engine` when it cannot start.
    pub fn spawn(self, log: &Path, journal: &mut Journal) -> Result<Daemon> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(log)
            .context(Kind::Config, || format!("cannot write {}", log.display()))?;
        let mut child = self
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(Kind::Engine, || {
                format!("cannot start {} ({})", self.name, self.program.display())
            })?;
        if let Some(id) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(ProcessId::of)
        {
            journal.record(&Step::Process { name: self.name.clone(), id })?;
        }
        let stdin = child.stdin.take();
        let said = child.stderr.take().map(|said| tokio::spawn(keep_log(said, file.into())));
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| Error::new(Kind::Internal, "a child has no standard output"))?;
        let stdout = Some(BufReader::new(stdout));
        Ok(Daemon {
            name: self.name,
            log: log.to_owned(),
            said,
            child,
            stdin,
            stdout,
            trusted: false,
        })
    }
}

impl Daemon {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Writes `secrets` as one line of JSON to its standard input, which stays open: the daemon
    /// ends when it closes. The copy made on the way is wiped.
    ///
    /// # Errors
    /// As [`Daemon::first_line`].
    pub async fn hand_over(&mut self, secrets: &impl serde::Serialize) -> Result<()> {
        let line = secret_line(secrets)
            .context(Kind::Internal, || format!("cannot hand the secrets to {}", self.name))?;
        self.trusted = true;
        let Some(stdin) = self.stdin.as_mut() else { return Ok(()) };
        match write_line(stdin, &line).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Writes `bytes`, at most a pipe's room (4 KiB), to its standard input, which stays open.
    ///
    /// # Errors
    /// As [`Daemon::first_line`].
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stdin) = self.stdin.as_mut() else { return Ok(()) };
        match write_line(stdin, bytes).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Takes over the conversation with a daemon that was handed secrets, once it has said that it
    /// is ready; `None` for any other, and when it was taken already.
    pub fn take_pipe(&mut self) -> Option<Pipe> {
        if !self.trusted || self.stdin.is_none() || self.stdout.is_none() {
            return None;
        }
        let (stdin, stdout) = (self.stdin.take()?, self.stdout.take()?);
        Some(Pipe {
            commands: Commands { name: self.name.clone(), stdin },
            reports: Reports(stdout),
        })
    }

    /// Waits for the line by which it says that it is ready.
    ///
    /// # Errors
    /// `Engine`, with what it said on standard error, when it ends first or says nothing within
    /// `deadline`.
    pub async fn first_line(&mut self, deadline: Duration) -> Result<String> {
        let mut line = String::new();
        let Some(stdout) = self.stdout.as_mut() else {
            return Err(Error::new(
                Kind::Internal,
                format!("{} was listened to already", self.name),
            ));
        };
        match tokio::time::timeout(deadline, stdout.read_line(&mut line)).await {
            Ok(Ok(n)) if n > 0 => Ok(line.trim_end().to_owned()),
            Ok(_) => Err(self.failure().await),
            Err(_) => Err(Error::new(
                Kind::Engine,
                format!("{} was not ready after {} s", self.name, deadline.as_secs()),
            )
            .hint(format!("cat {}", self.log.display()))),
        }
    }

    /// Waits until it ends.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("{} ended ({status})", self.name),
            Err(e) => format!("{} is lost: {e}", self.name),
        }
    }

    /// Waits until it ends, which it should not, and says what it said.
    pub async fn lost(&mut self) -> Error {
        self.ended().await;
        self.failure().await
    }

    /// Kills it and waits until it is gone, with all its files closed.
    pub async fn kill(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(5), self.child.kill()).await;
    }

    /// The error of a daemon that ended too early.
    pub async fn failure(&mut self) -> Error {
        let status = tokio::time::timeout(Duration::from_secs(2), self.child.wait()).await;
        let how = match status {
            Ok(Ok(status)) => status.to_string(),
            _ => "no exit status".to_owned(),
        };
        if let Some(said) = self.said.take() {
            let _ = tokio::time::timeout(Duration::from_millis(500), said).await;
        }
        let said = std::fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(4096)..]).into_owned();
        Error::new(Kind::Engine, format!("{} failed ({how}): {}", self.name, last_line(&said)))
            .hint(format!("cat {}", self.log.display()))
    }
}

impl Commands {
    /// Writes `command` as one line of JSON; the copy made on the way is wiped.
    ///
    /// # Errors
    /// `Engine` when the daemon does not take it within 5 s: half a line may have been written, so
    /// nothing more can be.
    pub async fn send(&mut self, command: &impl serde::Serialize) -> Result<()> {
        let line = secret_line(command)
            .context(Kind::Internal, || format!("cannot tell {}", self.name))?;
        let written =
            tokio::time::timeout(COMMAND_DEADLINE, write_line(&mut self.stdin, &line)).await;
        let lost = || Error::new(Kind::Engine, format!("{} does not listen any more", self.name));
        written.map_err(|_| lost())?.map_err(|_| lost())
    }
}

impl Reports {
    /// The next line, without its end; `None` when there is no more, or when it is longer than any
    /// report.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.0).take(REPORT_LIMIT).read_until(b'\n', &mut line).await.ok()?;
        (line.pop() == Some(b'\n')).then_some(line)
    }
}

/// `value` as JSON and a line end. Room from the start: a vector that grows leaves copies behind.
fn secret_line(value: &impl serde::Serialize) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(SECRETS_LIMIT));
    serde_json::to_writer(&mut *line, value)?;
    line.push(b'\n');
    Ok(line)
}

async fn write_line(stdin: &mut ChildStdin, line: &[u8]) -> std::io::Result<()> {
    stdin.write_all(line).await?;
    stdin.flush().await
}

/// The kernel ends the child when the thread that starts it does: the main thread, here.
pub fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe; nothing is
    // allocated.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
                .map_err(std::io::Error::from)
        });
    }
}

/// Copies what a child says into its log, up to [`LOG_LIMIT`]; what is more is thrown away. A guest
/// can make its VMM talk.
async fn keep_log(mut said: ChildStderr, mut log: tokio::fs::File) {
    let (mut buffer, mut left) = ([0; 4096], LOG_LIMIT);
    while let Ok(n @ 1..) = said.read(&mut buffer).await {
        let kept = n.min(left);
        left -= kept;
        if kept > 0 && (log.write_all(&buffer[..kept]).await.is_err() || log.flush().await.is_err())
        {
            left = 0;
        }
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing")
}
