//! Daemons: children that live as long as a bottle, are journaled, and are talked to by pipes.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::JoinHandle;

use super::child::Child;
use super::program::{Input, Program, Sink, last_line};
use super::secret_line::secret_line;
use crate::error::{Context, Error, ErrorKind, Result};

/// Largest log of a daemon's standard error, in bytes.
const MAX_LOG_BYTES: usize = 1 << 20;
/// Longest time that a daemon may take to read a line.
const COMMAND_DEADLINE: Duration = Duration::from_secs(5);
/// Longest line that a daemon may report, in bytes.
const MAX_REPORT_BYTES: u64 = 4096;

/// A record of new processes, so that they are found after a crash. The launch journal is one.
pub trait ProcessRecord {
    /// Records that `name` is the process `pid`.
    ///
    /// # Errors
    /// It cannot be written; the process is killed then.
    fn record_process(&mut self, name: &str, pid: i32) -> Result<()>;
}

/// A started daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: Utf8PathBuf,
    /// Ends when its standard error is closed.
    log_task: Option<JoinHandle<()>>,
    child: Child,
    stdin: Option<Sender>,
    stdout: Option<BufReader<Receiver>>,
    /// Whether it was given secrets. Only then does it get a [`ControlPipe`].
    trusted: bool,
}

/// Both ends of a daemon's pipe after its start. The daemon ends when this is dropped.
#[derive(Debug)]
pub struct ControlPipe {
    /// Lines to the daemon.
    pub commands: CommandWriter,
    /// Lines from the daemon.
    pub reports: ReportReader,
}

/// The standard input of a daemon that was given secrets.
#[derive(Debug)]
pub struct CommandWriter {
    name: String,
    stdin: Sender,
}

/// The standard output of such a daemon.
#[derive(Debug)]
pub struct ReportReader(BufReader<Receiver>);

impl Program {
    /// Starts a daemon, and records it in `record`. Its standard error goes to `log` (mode 0600,
    /// truncated, at most 1 MiB).
    ///
    /// # Errors
    /// `Engine` when it cannot start, `Io` when the log or the record cannot be written.
    pub fn spawn(self, log: &Utf8Path, record: &mut impl ProcessRecord) -> Result<Daemon> {
        let mut options = fs::OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        let file = options.open(log)?.into_file();
        let name = self.name.clone();
        let what = format!("cannot start {name} ({})", self.program.to_string_lossy());
        let program = self.stdin(Input::Pipe).stdout(Sink::Pipe).stderr(Sink::Pipe);
        let mut child = program.start().context(ErrorKind::Engine, || what.clone())?;
        record.record_process(&name, child.pid())?;
        let what = || what;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let receiver = |file: std::fs::File| Receiver::from_owned_fd(file.into());
        let pipes = || {
            Ok::<_, std::io::Error>((
                stdin.map(|file| Sender::from_owned_fd(file.into())).transpose()?,
                stdout.map(receiver).transpose()?,
                stderr.map(receiver).transpose()?,
            ))
        };
        let (stdin, stdout, stderr) = pipes().context(ErrorKind::Engine, what)?;
        Ok(Daemon {
            name,
            log: log.to_owned(),
            log_task: stderr.map(|stderr| tokio::spawn(keep_log(stderr, file.into()))),
            child,
            stdin,
            stdout: stdout.map(BufReader::new),
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

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Writes `secrets` as one line of JSON to its standard input, which stays open: the daemon
    /// ends when it closes. The copy that is made for this is wiped.
    ///
    /// # Errors
    /// As [`Daemon::ready_line`].
    pub async fn hand_over(&mut self, secrets: &impl serde::Serialize) -> Result<()> {
        let line = secret_line(secrets)
            .context(ErrorKind::Internal, || format!("cannot hand the secrets to {}", self.name))?;
        self.trusted = true;
        self.feed(&line).await
    }

    /// Writes `bytes`, at most a pipe's room (4 KiB), to its standard input, which stays open.
    ///
    /// # Errors
    /// As [`Daemon::ready_line`].
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stdin) = self.stdin.as_mut() else { return Ok(()) };
        match stdin.write_all(bytes).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Takes the pipe to a daemon that was given secrets, once it is ready; `None` for any other
    /// daemon, and when it was taken already.
    pub fn take_control_pipe(&mut self) -> Option<ControlPipe> {
        if !self.trusted || self.stdin.is_none() || self.stdout.is_none() {
            return None;
        }
        let (stdin, stdout) = (self.stdin.take()?, self.stdout.take()?);
        Some(ControlPipe {
            commands: CommandWriter { name: self.name.clone(), stdin },
            reports: ReportReader(stdout),
        })
    }

    /// Waits for the line by which the daemon reports that it is ready.
    ///
    /// # Errors
    /// `Engine`, with the last line of its standard error, when it ends first or prints no line
    /// within `deadline`.
    pub async fn ready_line(&mut self, deadline: Duration) -> Result<String> {
        let mut line = String::new();
        let Some(stdout) = self.stdout.as_mut() else {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("the output of {} was taken already", self.name),
            ));
        };
        match tokio::time::timeout(deadline, stdout.read_line(&mut line)).await {
            Ok(Ok(n)) if n > 0 => Ok(line.trim_end().to_owned()),
            Ok(_) => Err(self.failure().await),
            Err(_) => Err(Error::new(
                ErrorKind::Engine,
                format!("{} was not ready after {} s", self.name, deadline.as_secs()),
            )
            .hint(format!("cat {}", self.log))),
        }
    }

    /// Waits until it ends, and returns a sentence that says how.
    pub async fn ended(&mut self) -> String {
        match self.child.ended().await {
            Ok(status) => format!("{} ended ({status})", self.name),
            Err(e) => format!("{} is lost: {e}", self.name),
        }
    }

    /// Waits until it ends, which is an error.
    pub async fn lost(&mut self) -> Error {
        self.ended().await;
        self.failure().await
    }

    /// Kills it and waits until it is gone, with all its files closed; at most 5 s.
    pub async fn kill(&mut self) {
        if self.child.kill().is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(5), self.child.ended()).await;
        }
    }

    /// The error of a daemon that ended too early.
    pub async fn failure(&mut self) -> Error {
        let status = tokio::time::timeout(Duration::from_secs(2), self.child.ended()).await;
        let how = match status {
            Ok(Ok(status)) => status.to_string(),
            _ => "no exit status".to_owned(),
        };
        if let Some(log_task) = self.log_task.take() {
            let _ = tokio::time::timeout(Duration::from_millis(500), log_task).await;
        }
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
        Error::new(ErrorKind::Engine, format!("{} failed ({how}): {}", self.name, last_line(&log)))
            .hint(format!("cat {}", self.log))
    }
}

impl CommandWriter {
    /// Writes `command` as one line of JSON. The copy that is made for this is wiped.
    ///
    /// # Errors
    /// `Engine` when the daemon does not read it within 5 s. Half a line may have been written, so
    /// nothing can be sent any more.
    pub async fn send(&mut self, command: &impl serde::Serialize) -> Result<()> {
        let line = secret_line(command)
            .context(ErrorKind::Internal, || format!("cannot send a command to {}", self.name))?;
        let written = tokio::time::timeout(COMMAND_DEADLINE, self.stdin.write_all(&line)).await;
        let lost = || {
            Error::new(ErrorKind::Engine, format!("{} does not read commands any more", self.name))
        };
        written.map_err(|_| lost())?.map_err(|_| lost())
    }
}

impl ReportReader {
    /// The next line, without its line end; `None` at the end, and when a line is too long.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.0).take(MAX_REPORT_BYTES).read_until(b'\n', &mut line).await.ok()?;
        (line.pop() == Some(b'\n')).then_some(line)
    }
}

/// Copies a child's standard error into its log, up to [`MAX_LOG_BYTES`], and discards the rest: a guest
/// can make its VMM write without end.
async fn keep_log(mut stderr: Receiver, mut log: tokio::fs::File) {
    let (mut buffer, mut left) = ([0; 4096], MAX_LOG_BYTES);
    while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
        let kept = n.min(left);
        left -= kept;
        if kept > 0 && (log.write_all(&buffer[..kept]).await.is_err() || log.flush().await.is_err())
        {
            left = 0;
        }
    }
}
