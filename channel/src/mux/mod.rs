//! The stream multiplexer.
//!
//! Why not yamux? With hostile input, a peer of yamux 0.13.10 can (1) panic the driver with an
//! overflowing credit in a SYN (in debug builds; `connection.rs`, `frame.header().credit() +
//! DEFAULT_CREDIT`), (2) make it use unlimited memory with empty data frames on a stream that
//! nobody reads, or 60 times the data with one-byte frames, (3) make a writer wait for ever by
//! half-closing and then dropping a stream. Two ends also deadlock when both owe a pong while both
//! directions are full. tokio-yamux 0.3.20 stalled on an unread stream. We need less than these
//! offer: one peer, no lazily opened streams, no pings.
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
//! Each stream starts with a window of [`INITIAL_WINDOW`] bytes in each direction. The window of a
//! stream that is read grows up to [`MAX_WINDOW`], out of a shared [`GROWTH_POOL`]; that of an
//! unread stream does not grow. So the receive buffers of an end never exceed [`MAX_BUFFERED`]. An
//! end never has to write in order to read, so no pattern of traffic can stall it. Frames to be
//! written are flags of live streams, not a queue that the peer could grow.

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
