//! Frames inside a stream: kind (u8), payload length (u32, little-endian), and a payload of at most
//! [`MAX_PAYLOAD`] bytes.

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum length of a payload in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Length of kind and payload length, in bytes.
pub const HEADER_LEN: usize = 5;

/// Why a frame could not be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The payload exceeds [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes exceeds the limit of {MAX_PAYLOAD}")]
    TooLong(usize),
    /// The kind is unknown, or the payload does not fit the kind.
    #[error("malformed frame of kind {0}")]
    Malformed(u8),
}

/// The first frame of a buffer: its kind, its payload, and its length in bytes.
pub type FirstFrame<'a> = (u8, &'a [u8], usize);

/// Parses the first frame of `buf`. `None` means that more bytes are needed.
///
/// # Errors
/// [`FrameError::TooLong`], as soon as `buf` has the length.
pub fn parse_frame(buf: &[u8]) -> Result<Option<FirstFrame<'_>>, FrameError> {
    let Some((head, rest)) = buf.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if len > MAX_PAYLOAD {
        return Err(FrameError::TooLong(len));
    }
    Ok(rest.get(..len).map(|payload| (head[0], payload, HEADER_LEN + len)))
}

/// Reads frames. Buffers at most 128 KiB.
#[derive(Debug)]
pub struct FrameReader<R> {
    io: R,
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `io`.
    pub fn new(io: R) -> Self {
        Self { io, buf: Vec::new(), start: 0, end: 0 }
    }

    /// The next frame, or `None` at an end of stream between frames. Cancel safe: a dropped call
    /// loses no byte.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader cannot be used after an error.
    pub async fn next(&mut self) -> Result<Option<(u8, &[u8])>, FrameError> {
        let (kind, from, to) = loop {
            if let Some((kind, payload, used)) = parse_frame(&self.buf[self.start..self.end])? {
                let found = (kind, self.start + used - payload.len(), self.start + used);
                self.start += used;
                break found;
            }
            if self.start > 0 {
                self.buf.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            // The buffer stays small until a long frame arrives; most streams have none.
            if self.end == self.buf.len() {
                let len = (self.buf.len() * 2).clamp(4096, 2 * MAX_PAYLOAD);
                self.buf.resize(len, 0);
            }
            match self.io.read(&mut self.buf[self.end..]).await? {
                0 if self.end == 0 => return Ok(None),
                0 => return Err(FrameError::Truncated),
                n => self.end += n,
            }
        };
        Ok(Some((kind, &self.buf[from..to])))
    }
}

/// Writes frames, each with one write.
#[derive(Debug)]
pub struct FrameWriter<W> {
    io: W,
    buf: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `io`.
    pub fn new(io: W) -> Self {
        Self { io, buf: Vec::new() }
    }

    /// Writes one frame and flushes. Not cancel safe.
    ///
    /// # Errors
    /// When `io` fails or `payload` is over [`MAX_PAYLOAD`].
    pub async fn send(&mut self, kind: u8, payload: &[u8]) -> Result<(), FrameError> {
        encode(&mut self.buf, kind, payload)?;
        self.io.write_all(&self.buf).await?;
        self.io.flush().await?;
        Ok(())
    }

    /// Half-closes the stream.
    ///
    /// # Errors
    /// When `io` fails.
    pub async fn shutdown(&mut self) -> Result<(), FrameError> {
        Ok(self.io.shutdown().await?)
    }
}

/// Replaces the content of `buf` with one frame.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode(buf: &mut Vec<u8>, kind: u8, payload: &[u8]) -> Result<(), FrameError> {
    let len = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD)
        .ok_or(FrameError::TooLong(payload.len()))?;
    buf.clear();
    buf.push(kind);
    buf.extend_from_slice(&len.to_le_bytes());
    buf.extend_from_slice(payload);
    Ok(())
}
