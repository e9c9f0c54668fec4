//! Why a channel ends.

use thiserror::Error;

/// Why a channel ended, or a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChannelError {
    /// The other end went away, or this end closed the session.
    #[error("the channel to the bottle is closed")]
    Closed,
    /// The byte stream failed.
    #[error("the channel to the bottle failed: {0}")]
    Io(String),
    /// The other end violated the protocol.
    #[error("protocol violation on the channel: {0}")]
    Protocol(&'static str),
    /// The header is too large to send.
    #[error("a request of {0} bytes is too large for the channel")]
    TooLarge(usize),
}
