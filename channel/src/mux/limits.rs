//! Bounds of a channel.

/// Receive window of a new stream in bytes.
pub const INITIAL_WINDOW: u32 = 64 * 1024;
/// Maximum receive window of a stream in bytes.
pub const MAX_WINDOW: u32 = 1024 * 1024;
/// Total bytes by which the windows of an end may exceed [`INITIAL_WINDOW`].
pub const GROWTH_POOL: u32 = 16 * 1024 * 1024;
/// Maximum number of streams that the guest may have open. The host resets further ones at once.
pub const MAX_GUEST_STREAMS: usize = 512;
/// Maximum number of streams that the host may have open. `Session::open` waits until one ends.
pub const MAX_HOST_STREAMS: usize = 256;
/// Maximum number of bytes that one end buffers for its peer: 64 MiB.
pub const MAX_BUFFERED: usize =
    (MAX_GUEST_STREAMS + MAX_HOST_STREAMS) * INITIAL_WINDOW as usize + GROWTH_POOL as usize;
/// Maximum length of a header that the host sends, in bytes. argv and environment are in it.
pub const MAX_HOST_HEADER: usize = 1024 * 1024;
/// Maximum length of a header that the host reads from a guest, in bytes.
pub const MAX_GUEST_HEADER: usize = 256;

const _: () = assert!(MAX_BUFFERED == 64 * 1024 * 1024);
/// Maximum number of streams that our guest opens. It is less than the host accepts, because a
/// stream can end a moment later at the host than at the guest.
pub(super) const MAX_GUEST_OPENS: usize = MAX_GUEST_STREAMS - 128;
