//! Bounds of a channel.

/// Receive window of a new stream in bytes.
pub const INITIAL_WINDOW: u32 = 64 * 1024;
/// Largest receive window of a stream in bytes.
pub const MAX_WINDOW: u32 = 1024 * 1024;
/// Bytes by which all windows of an end together may exceed [`INITIAL_WINDOW`].
pub const GROWTH_POOL: u32 = 16 * 1024 * 1024;
/// Streams that the guest may have open at the host; more are reset at once.
pub const MAX_GUEST_STREAMS: usize = 512;
/// Streams that the host may have open; [`Session::open`] waits for one to end.
pub const MAX_HOST_STREAMS: usize = 256;
/// Upper bound of the bytes that one end holds for its peer: 64 MiB.
pub const MAX_BUFFERED: usize =
    (MAX_GUEST_STREAMS + MAX_HOST_STREAMS) * INITIAL_WINDOW as usize + GROWTH_POOL as usize;
/// Largest header that the host sends (argv and environment are in it), in bytes.
pub const MAX_HOST_HEADER: usize = 1024 * 1024;
/// Largest header that the host reads from a guest, in bytes.
pub const MAX_GUEST_HEADER: usize = 256;

const _: () = assert!(MAX_BUFFERED == 64 * 1024 * 1024);
/// The guest opens fewer than the host takes: a stream can end a moment later at the host than at
/// the guest.
pub(super) const MAX_GUEST_OPENS: usize = MAX_GUEST_STREAMS - 128;
