//! The frames of an exec stream, and exit statuses.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::frame::{FrameError, FrameReader, FrameWriter};
use crate::open::TtySize;

const STDIN: u8 = 1;
const STDIN_EOF: u8 = 2;
const RESIZE: u8 = 3;
const STDOUT: u8 = 16;
const STDERR: u8 = 17;
const EXIT: u8 = 18;
const ERROR: u8 = 19;

/// Maximum length of the message of a [`FromGuest::Error`], in bytes. The rest is cut.
const MAX_MESSAGE_BYTES: usize = 1024;

/// A frame to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToGuest<'a> {
    /// Bytes for stdin.
    Stdin(&'a [u8]),
    /// End of stdin.
    StdinEof,
    /// The new size of the terminal.
    Resize(TtySize),
}

/// A frame from the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromGuest<'a> {
    /// Bytes from stdout, or from the terminal.
    Stdout(&'a [u8]),
    /// Bytes from stderr.
    Stderr(&'a [u8]),
    /// The process ended. This is the last frame.
    Exit(ExitStatus),
    /// The process was not started.
    Error(SpawnError),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// It was killed by this signal.
    Signal(u8),
}

impl ExitStatus {
    /// The exit code as shells report it: 128 + n for signal n.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128u8.saturating_add(signal),
        }
    }

    /// Exit code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// Why a process was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnError {
    /// The kind that decides the exit code.
    pub kind: SpawnErrorKind,
    /// One line from the guest. Hostile: show it only through `bottle_text`.
    pub message: String,
}

/// See [`SpawnError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpawnErrorKind {
    /// No such program.
    NotFound,
    /// Not executable, or not for that user.
    PermissionDenied,
    /// Anything else.
    Other,
}

impl SpawnError {
    /// The exit code as shells report it: 127 not found, 126 not executable, 125 otherwise.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self.kind {
            SpawnErrorKind::NotFound => 127,
            SpawnErrorKind::PermissionDenied => 126,
            SpawnErrorKind::Other => 125,
        }
    }
}

impl<'a> ToGuest<'a> {
    /// Decodes a frame.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, FrameError> {
        Ok(match (kind, payload) {
            (STDIN, bytes) => Self::Stdin(bytes),
            (STDIN_EOF, []) => Self::StdinEof,
            (RESIZE, &[a, b, c, d]) => Self::Resize(TtySize {
                rows: u16::from_le_bytes([a, b]),
                cols: u16::from_le_bytes([c, d]),
            }),
            _ => return Err(FrameError::Malformed(kind)),
        })
    }

    /// Writes the frame.
    ///
    /// # Errors
    /// See [`FrameWriter::send`].
    pub async fn send<W: AsyncWrite + Unpin>(
        &self,
        to: &mut FrameWriter<W>,
    ) -> Result<(), FrameError> {
        match *self {
            Self::Stdin(bytes) => to.send(STDIN, bytes).await,
            Self::StdinEof => to.send(STDIN_EOF, &[]).await,
            Self::Resize(size) => {
                let ([a, b], [c, d]) = (size.rows.to_le_bytes(), size.cols.to_le_bytes());
                to.send(RESIZE, &[a, b, c, d]).await
            }
        }
    }

    /// The next frame from the host; `None` when it closed the stream.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub async fn recv<R: AsyncRead + Unpin>(
        from: &'a mut FrameReader<R>,
    ) -> Result<Option<Self>, FrameError> {
        from.next().await?.map(|(kind, payload)| Self::decode(kind, payload)).transpose()
    }
}

impl<'a> FromGuest<'a> {
    /// Decodes a frame.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, FrameError> {
        Ok(match (kind, payload) {
            (STDOUT, bytes) => Self::Stdout(bytes),
            (STDERR, bytes) => Self::Stderr(bytes),
            (EXIT, &[0, code]) => Self::Exit(ExitStatus::Code(code)),
            (EXIT, &[1, signal]) => Self::Exit(ExitStatus::Signal(signal)),
            (ERROR, json) => {
                let mut error: SpawnError =
                    serde_json::from_slice(json).map_err(|_| FrameError::Malformed(kind))?;
                let cut = (0..=MAX_MESSAGE_BYTES.min(error.message.len()))
                    .rev()
                    .find(|i| error.message.is_char_boundary(*i))
                    .unwrap_or(0);
                error.message.truncate(cut);
                Self::Error(error)
            }
            _ => return Err(FrameError::Malformed(kind)),
        })
    }

    /// Writes the frame.
    ///
    /// # Errors
    /// See [`FrameWriter::send`].
    pub async fn send<W: AsyncWrite + Unpin>(
        &self,
        to: &mut FrameWriter<W>,
    ) -> Result<(), FrameError> {
        match self {
            Self::Stdout(bytes) => to.send(STDOUT, bytes).await,
            Self::Stderr(bytes) => to.send(STDERR, bytes).await,
            Self::Exit(ExitStatus::Code(code)) => to.send(EXIT, &[0, *code]).await,
            Self::Exit(ExitStatus::Signal(signal)) => to.send(EXIT, &[1, *signal]).await,
            Self::Error(error) => {
                to.send(ERROR, &serde_json::to_vec(error).map_err(std::io::Error::from)?).await
            }
        }
    }

    /// The next frame from the guest; `None` when it closed the stream.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub async fn recv<R: AsyncRead + Unpin>(
        from: &'a mut FrameReader<R>,
    ) -> Result<Option<Self>, FrameError> {
        from.next().await?.map(|(kind, payload)| Self::decode(kind, payload)).transpose()
    }
}
