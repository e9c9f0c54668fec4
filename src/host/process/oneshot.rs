//! Programs that run to their end.

use std::fs::File;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use zeroize::Zeroizing;

use super::child::Child;
use super::program::{Input, Program, last_line};
use super::secret_line::secret_line;
use crate::error::{Context, Error, ErrorKind, Result};

/// How a program ended, and what it wrote to the pipes that it had.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output; empty where that was no pipe.
    pub stdout: Vec<u8>,
    /// Its standard error; empty where that was no pipe.
    pub stderr: Vec<u8>,
}

impl Program {
    /// Runs it to the end and returns standard output.
    ///
    /// # Errors
    /// `kind` when it cannot start, fails (with the last line of its standard error) or takes
    /// longer than `deadline`.
    pub async fn run(self, deadline: Duration, kind: ErrorKind) -> Result<Vec<u8>> {
        let name = self.name.clone();
        let output = self
            .output_async(deadline)
            .await
            .context(kind, || format!("cannot run {name}"))?
            .ok_or_else(|| {
                Error::new(kind, format!("{name} did not finish in {} s", deadline.as_secs()))
            })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(Error::new(kind, format!("{name} failed ({}): {}", output.status, last_line(&stderr))))
    }

    /// Runs it to the end with `secrets` as the one line of its standard input; they are wiped
    /// afterwards.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub async fn run_with(
        self,
        secrets: &impl serde::Serialize,
        deadline: Duration,
        kind: ErrorKind,
    ) -> Result<Vec<u8>> {
        let line = secret_line(secrets)
            .context(ErrorKind::Internal, || format!("cannot hand the secrets to {}", self.name))?;
        self.stdin(Input::Bytes(line)).run(deadline, kind).await
    }

    /// Runs it to the end on the runtime; `None` when it took longer than `deadline` and was killed.
    /// Dropping the future kills it too.
    ///
    /// # Errors
    /// It cannot be started, or its pipes cannot be read.
    pub async fn output_async(mut self, deadline: Duration) -> io::Result<Option<Output>> {
        let input = self.take_input();
        let child = self.start()?;
        finish(child, input, deadline).await
    }

    /// Runs it to the end, blocking this thread; `None` when it took longer than `deadline` and was
    /// killed. It may be called inside a runtime, which stands still meanwhile.
    ///
    /// # Errors
    /// As [`Program::output_async`].
    pub fn output(mut self, deadline: Duration) -> io::Result<Option<Output>> {
        let input = self.take_input();
        // This thread spawns; a helper thread, which may have a runtime of its own, waits.
        let child = self.start()?;
        let wait = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(finish(child, input, deadline))
        };
        std::thread::scope(|scope| scope.spawn(wait).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread that waits for it panicked")))
    }

    /// Runs it to the end, blocking this thread for as long as it takes. For programs that the
    /// operator talks to, or sees at work.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn status(self) -> io::Result<ExitStatus> {
        self.start()?.wait()
    }

    fn take_input(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        match &mut self.stdin {
            Input::Bytes(bytes) => Some(std::mem::take(bytes)),
            _ => None,
        }
    }
}

/// Feeds the child, reads what it writes and waits for its end. Dropping this kills it.
async fn finish(
    mut child: Child,
    input: Option<Zeroizing<Vec<u8>>>,
    deadline: Duration,
) -> io::Result<Option<Output>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let all = async {
        let (_, stdout, stderr, status) =
            tokio::join!(write(stdin, input), read(stdout), read(stderr), child.ended());
        Ok(Output { status: status?, stdout: stdout?, stderr: stderr? })
    };
    tokio::time::timeout(deadline, all).await.ok().transpose()
}

/// A program that ends before it has read all says why itself.
async fn write(stdin: Option<File>, input: Option<Zeroizing<Vec<u8>>>) -> io::Result<()> {
    match (stdin, input) {
        (Some(stdin), Some(input)) => {
            pipe::Sender::from_owned_fd(stdin.into())?.write_all(&input).await
        }
        _ => Ok(()),
    }
}

async fn read(output: Option<File>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(output) = output {
        pipe::Receiver::from_owned_fd(output.into())?.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}
