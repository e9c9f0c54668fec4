//! Bodies of requests and responses.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::text;

/// Length of a streamed body, in bytes.
pub const STREAMED_BYTES: usize = 25 * text::LARGE_BYTES;

/// A body: the same bytes, repeated.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    /// The bytes.
    pub part: Bytes,
    /// Number of repetitions.
    pub times: u64,
}

impl Payload {
    /// A body of [`STREAMED_BYTES`] that repeats `part`.
    pub fn streamed(part: Bytes) -> Self {
        Self { times: (STREAMED_BYTES / part.len()) as u64, part }
    }
}

impl From<Bytes> for Payload {
    fn from(part: Bytes) -> Self {
        Self { part, times: 1 }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        self.times -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.part.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.times == 0 || self.part.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.times * self.part.len() as u64)
    }
}
