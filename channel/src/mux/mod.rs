//! The stream multiplexer.
//!
//! Why not yamux: read as a parser of hostile bytes, yamux 0.13.10 lets the peer (1) panic the
//! driver with an overflowing credit in a SYN (debug builds; `connection.rs`,
//! `frame.header().credit() + DEFAULT_CREDIT`), (2) grow memory without limit with empty data
//! frames on a stream nobody reads, and 60-fold with one-byte frames, (3) leave a writer waiting
//! for ever when the other end half-closed and then dropped a stream, and they deadlock when both
//! ends owe a pong while both directions are full. tokio-yamux 0.3.20 stalled on an unread stream.
//! What is needed here is smaller than what they offer: one peer, no lazily opened streams, no
//! pings.
//!
//! # Wire format
//! `kind u8 | length u24 | stream u32`, little-endian, then `length` bytes:
//!
//! | kind | payload | meaning |
//! |---|---|---|
//! | 1 open | JSON header | a new stream; host ids are odd, guest ids even, both strictly rising |
//! | 2 data | 1 to 32 768 bytes | within the receiver's window |
//! | 3 window | u32 > 0 | that many bytes more may be sent |
//! | 4 fin | – | no more data from this end |
//! | 5 reset | – | this end has dropped the stream |
//!
//! # Bounds
//! Each stream starts with a window of [`INITIAL_WINDOW`] bytes in each direction. A stream that is
//! read grows up to [`MAX_WINDOW`] out of a shared [`GROWTH_POOL`]; one that is not read never
//! does. So the receive buffers of an end never exceed [`MAX_BUFFERED`]. An end never needs to
//! write in order to read, so no pattern of traffic can stall it, and whatever is queued to be
//! written is a flag of a live stream, not a queue the peer could grow.

mod driver;
mod error;
mod limits;
mod session;
mod state;
mod stream;
pub mod wire;

pub use driver::Driver;
pub use error::ChannelError;
pub use limits::{
    GROWTH_POOL, INITIAL_WINDOW, MAX_BUFFERED, MAX_GUEST_HEADER, MAX_GUEST_STREAMS,
    MAX_HOST_HEADER, MAX_HOST_STREAMS, MAX_WINDOW,
};
pub use session::{Incoming, Session};
pub use stream::ChannelStream;
