//! A JSON document preceded by its length: the first bytes on a control socket, and every reply.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum length of a guest's reply, in bytes.
pub(crate) const MAX_REPLY_BYTES: usize = 16 * 1024;

/// Why a header or a reply could not be read or written.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// The stream failed or ended.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The document is longer than the reader accepts.
    #[error("a header of {len} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Announced length in bytes.
        len: usize,
        /// The reader's limit in bytes.
        limit: usize,
    },
    /// It is not the expected document.
    #[error("malformed header: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes `value` as a u32 little-endian length and that many bytes of JSON, and flushes.
///
/// # Errors
/// When `io` fails, or `value` does not serialise.
pub async fn write_header<W: AsyncWrite + Unpin + ?Sized, T: Serialize>(
    io: &mut W,
    value: &T,
) -> Result<(), HeaderError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let len = bytes.len() - 4;
    let announced =
        u32::try_from(len).map_err(|_| HeaderError::TooLong { len, limit: u32::MAX as usize })?;
    bytes[..4].copy_from_slice(&announced.to_le_bytes());
    io.write_all(&bytes).await?;
    io.flush().await?;
    Ok(())
}

/// Reads what [`write_header`] wrote. Refuses a length above `limit` bytes before allocating. Reads
/// no byte beyond the document. The caller sets the deadline.
///
/// # Errors
/// When `io` fails, the length exceeds `limit`, or the document is not a `T`.
pub async fn read_header<T: DeserializeOwned, R: AsyncRead + Unpin + ?Sized>(
    io: &mut R,
    limit: usize,
) -> Result<T, HeaderError> {
    let mut len = [0; 4];
    io.read_exact(&mut len).await?;
    let len = u32::from_le_bytes(len) as usize;
    if len > limit {
        return Err(HeaderError::TooLong { len, limit });
    }
    let mut bytes = vec![0; len];
    io.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}
