//! Requests of the host: run a process, or send one request and read its reply.

use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::exec::{ExitStatus, FromGuest, SpawnError, ToGuest};
use crate::frame::{FrameError, FrameReader, FrameWriter};
use crate::header::{HeaderError, MAX_REPLY_BYTES, read_header};
use crate::mux::{ChannelError, Session};
use crate::open::{ExecRequest, GuestConfig, HostOpen, Reply, TtySize};

/// Why a request to the guest failed.
#[derive(Debug, Error)]
pub enum CallError {
    /// The stream could not be opened.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The stream ended before the reply, or carried something else.
    #[error("no valid answer from the guest: {0}")]
    Header(#[from] HeaderError),
    /// As above, inside a stream of frames.
    #[error("no valid answer from the guest: {0}")]
    Frame(#[from] FrameError),
    /// The guest reported an error. Unprintable characters are already replaced.
    #[error("the guest reports: {0}")]
    Guest(String),
    /// The host's own file or pipe failed.
    #[error("local end of the copy: {0}")]
    Local(#[source] std::io::Error),
}

impl<T> Reply<T> {
    /// The value, or the guest's error message made safe to print.
    ///
    /// # Errors
    /// [`CallError::Guest`].
    pub fn into_result(self) -> Result<T, CallError> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Error(message) => Err(CallError::Guest(printable(&message))),
        }
    }
}

/// A text from the guest with unprintable characters replaced, at most 500 characters.
pub(crate) fn printable(text: &str) -> String {
    bottle_text::replace(text, '\u{fffd}', 500)
}

/// Opens a stream for `request` and reads the reply. The caller sets the deadline.
///
/// # Errors
/// See [`CallError`].
pub async fn call<T: DeserializeOwned>(
    session: &Session<HostOpen>,
    request: &HostOpen,
) -> Result<T, CallError> {
    let mut stream = session.open(request).await?;
    read_header::<Reply<T>, _>(&mut stream, MAX_REPLY_BYTES).await?.into_result()
}

impl Session<HostOpen> {
    /// Applies `config` in the guest.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn configure(&self, config: GuestConfig) -> Result<(), CallError> {
        call(self, &HostOpen::Configure(config)).await
    }

    /// Powers the guest off. Returns when the guest has flushed its disk, just before the
    /// power-off.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn shutdown(&self) -> Result<(), CallError> {
        call(self, &HostOpen::Shutdown).await
    }

    /// Runs `request` to its end, without a terminal and without stdin. See [`exec_capture`].
    ///
    /// # Errors
    /// See [`ExecFailure`].
    pub async fn exec(
        &self,
        request: ExecRequest,
        limit: usize,
        deadline: Duration,
    ) -> Result<Capture, ExecFailure> {
        let started = tokio::time::Instant::now();
        let stream = tokio::time::timeout(deadline, self.open(&HostOpen::Exec(request)))
            .await
            .map_err(|_| ExecFailure::Deadline(deadline))?
            .map_err(ExecFailure::Channel)?;
        exec_capture(stream, limit, deadline.saturating_sub(started.elapsed())).await
    }
}

/// Why there is no exit status of a process.
#[derive(Debug, Error)]
pub enum ExecFailure {
    /// The stream could not be opened.
    #[error(transparent)]
    Channel(ChannelError),
    /// The process was not started.
    #[error("{}", printable(&.0.message))]
    Spawn(SpawnError),
    /// The stream ended or broke before the exit status.
    #[error("lost the process in the bottle: {0}")]
    Stream(#[from] FrameError),
    /// Writing to the host's stdout or stderr failed. The process got SIGHUP.
    #[error("cannot write the process's output: {0}")]
    Output(#[source] std::io::Error),
    /// The process was still running at the deadline. It got SIGHUP.
    #[error("still running after {0:?}")]
    Deadline(Duration),
    /// The process wrote more than the limit. It got SIGHUP.
    #[error("wrote more than {0} bytes")]
    TooMuchOutput(usize),
}

/// Connects the process behind `stream`, whose header is already written, to local streams; `sizes`
/// are the new sizes of its terminal. Returns the exit status when all output is written, whether
/// or not stdin has ended. Dropping this future sends SIGHUP to the process.
///
/// # Errors
/// See [`ExecFailure`].
pub async fn run_exec<S, I, O, E>(
    stream: S,
    stdin: I,
    mut stdout: O,
    mut stderr: E,
    sizes: mpsc::Receiver<TtySize>,
) -> Result<ExitStatus, ExecFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let (from, to) = tokio::io::split(stream);
    let mut from = FrameReader::new(from);
    let output = async {
        loop {
            match FromGuest::recv(&mut from).await?.ok_or(FrameError::Truncated)? {
                FromGuest::Stdout(bytes) => write_out(&mut stdout, bytes).await?,
                FromGuest::Stderr(bytes) => write_out(&mut stderr, bytes).await?,
                FromGuest::Exit(status) => return Ok(status),
                FromGuest::Error(error) => return Err(ExecFailure::Spawn(error)),
            }
        }
    };
    // The end of the input does not end the process: only the output side has the exit status.
    let input = async {
        let _ = send_input(FrameWriter::new(to), stdin, sizes).await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        biased;
        status = output => status,
        never = input => match never {},
    }
}

async fn write_out<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> Result<(), ExecFailure> {
    to.write_all(bytes).await.map_err(ExecFailure::Output)?;
    to.flush().await.map_err(ExecFailure::Output)
}

async fn send_input<W: AsyncWrite + Unpin, I: AsyncRead + Unpin>(
    mut to: FrameWriter<W>,
    mut stdin: I,
    mut sizes: mpsc::Receiver<TtySize>,
) -> Result<(), FrameError> {
    let mut buf = vec![0; 16 * 1024];
    let (mut open, mut listening) = (true, true);
    while open || listening {
        tokio::select! {
            read = stdin.read(&mut buf), if open => match read {
                Ok(n) if n > 0 => ToGuest::Stdin(&buf[..n]).send(&mut to).await?,
                _ => {
                    open = false;
                    ToGuest::StdinEof.send(&mut to).await?;
                }
            },
            size = sizes.recv(), if listening => match size {
                Some(size) => ToGuest::Resize(size).send(&mut to).await?,
                None => listening = false,
            },
        }
    }
    Ok(())
}

/// Exit status and output of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// The exit status.
    pub status: ExitStatus,
    /// The stdout. Hostile.
    pub stdout: Vec<u8>,
    /// The stderr. Hostile.
    pub stderr: Vec<u8>,
}

/// Collects the output of the process behind `stream`: at most `limit` bytes of stdout and stderr
/// together, for at most `deadline`.
///
/// # Errors
/// See [`ExecFailure`]. After an error, the process has got SIGHUP.
pub async fn exec_capture<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    limit: usize,
    deadline: Duration,
) -> Result<Capture, ExecFailure> {
    let (from, to) = tokio::io::split(stream);
    let mut from = FrameReader::new(from);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let run = async {
        // A process that reads stdin would otherwise never end. The guest ignores this when the
        // request has no stdin.
        let _ = ToGuest::StdinEof.send(&mut FrameWriter::new(to)).await;
        loop {
            let (into, bytes) =
                match FromGuest::recv(&mut from).await?.ok_or(FrameError::Truncated)? {
                    FromGuest::Stdout(bytes) => (&mut stdout, bytes),
                    FromGuest::Stderr(bytes) => (&mut stderr, bytes),
                    FromGuest::Exit(status) => return Ok(status),
                    FromGuest::Error(error) => return Err(ExecFailure::Spawn(error)),
                };
            into.extend_from_slice(bytes);
            if stdout.len() + stderr.len() > limit {
                return Err(ExecFailure::TooMuchOutput(limit));
            }
        }
    };
    let status = tokio::time::timeout(deadline, run)
        .await
        .map_err(|_| ExecFailure::Deadline(deadline))??;
    Ok(Capture { status, stdout, stderr })
}
