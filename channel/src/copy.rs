//! Copies files into and out of a guest, as tar. Both directions end with a [`CopyReport`], so that
//! a cut stream is never taken for a complete one.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::frame::{FrameError, FrameReader, FrameWriter};
use crate::header::{MAX_REPLY_BYTES, read_header};
use crate::mux::Session;
use crate::open::{CopyInRequest, CopyOutRequest, HostOpen, Reply};
use crate::run::CallError;

const DATA: u8 = 32;
const DONE: u8 = 33;
const CHUNK: usize = 32 * 1024;

/// Totals of a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Files, directories and links.
    pub files: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// A frame of a [`HostOpen::CopyOut`] stream, from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutFrame<'a> {
    /// The next bytes of the tar stream.
    Data(&'a [u8]),
    /// The last frame.
    Done(Reply<CopyReport>),
}

impl<'a> OutFrame<'a> {
    /// Decodes a frame.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, FrameError> {
        match kind {
            DATA => Ok(Self::Data(payload)),
            DONE => serde_json::from_slice(payload)
                .map(Self::Done)
                .map_err(|_| FrameError::Malformed(kind)),
            _ => Err(FrameError::Malformed(kind)),
        }
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
            Self::Data(bytes) => to.send(DATA, bytes).await,
            Self::Done(reply) => {
                to.send(DONE, &serde_json::to_vec(reply).map_err(std::io::Error::from)?).await
            }
        }
    }
}

/// Unpacks the tar stream `tar` in the guest.
///
/// # Errors
/// When the stream fails, `tar` cannot be read, or the guest reports an error (also in the middle
/// of the transfer).
pub async fn copy_in<R: AsyncRead + Unpin>(
    session: &Session<HostOpen>,
    request: CopyInRequest,
    tar: R,
) -> Result<CopyReport, CallError> {
    copy_in_stream(session.open(&HostOpen::CopyIn(request)).await?, tar).await
}

/// [`copy_in`] on a stream whose header is already written, such as a control socket.
///
/// # Errors
/// As [`copy_in`].
pub async fn copy_in_stream<S: AsyncRead + AsyncWrite + Unpin, R: AsyncRead + Unpin>(
    stream: S,
    mut tar: R,
) -> Result<CopyReport, CallError> {
    let (mut from, mut to) = tokio::io::split(stream);
    let send = async {
        let mut buf = vec![0; CHUNK];
        loop {
            let n = tar.read(&mut buf).await.map_err(CallError::Local)?;
            if n == 0 {
                // A guest that replied early may have closed its end. Its reply decides.
                let _ = to.shutdown().await;
                return Ok::<(), CallError>(());
            }
            if to.write_all(&buf[..n]).await.is_err() {
                return Ok(());
            }
        }
    };
    let receive = read_header::<Reply<CopyReport>, _>(&mut from, MAX_REPLY_BYTES);
    // The guest replies before the end only to report an error. Then nothing more needs to be sent.
    tokio::pin!(receive);
    let reply = tokio::select! {
        sent = send => { sent?; receive.await? }
        reply = &mut receive => reply?,
    };
    reply.into_result()
}

/// Writes `request.path` of the guest to `out` as a tar stream. No command uses this yet; it is for
/// `bottle cp`. The bytes are hostile: unpack them only with [`crate::untar::extract_hostile`], and
/// if a part of them is worse than nothing, only after this has returned `Ok`.
///
/// # Errors
/// When the stream fails or is cut short, `out` cannot be written, or the guest reports an error.
pub async fn copy_out<W: AsyncWrite + Unpin>(
    session: &Session<HostOpen>,
    request: CopyOutRequest,
    out: W,
) -> Result<CopyReport, CallError> {
    copy_out_stream(session.open(&HostOpen::CopyOut(request)).await?, out).await
}

/// [`copy_out`] on a stream whose header is already written, such as a control socket.
///
/// # Errors
/// As [`copy_out`].
pub async fn copy_out_stream<S: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    stream: S,
    mut out: W,
) -> Result<CopyReport, CallError> {
    let mut frames = FrameReader::new(stream);
    loop {
        let Some((kind, payload)) = frames.next().await? else {
            return Err(FrameError::Truncated.into());
        };
        match OutFrame::decode(kind, payload)? {
            OutFrame::Data(bytes) => out.write_all(bytes).await.map_err(CallError::Local)?,
            OutFrame::Done(reply) => {
                out.flush().await.map_err(CallError::Local)?;
                return reply.into_result();
            }
        }
    }
}
