//! The last message of a stream.

use bottle_channel::{Reply, write_header};
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Sends `reply` and closes the stream.
pub async fn reply<S: AsyncWrite + Unpin, T: Serialize>(mut stream: S, reply: &Reply<T>) {
    // A host that no longer listens needs no answer.
    if write_header(&mut stream, reply).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}
