//! The frames of the multiplexer. After the handshake, only this parser sees raw bytes of the peer.

use super::error::ChannelError;

/// Length of a frame's header (kind, length and stream id), in bytes.
pub const HEADER_LEN: usize = 8;
/// Maximum payload of a data frame in bytes.
pub const MAX_DATA: usize = 32 * 1024;

pub(super) const OPEN: u8 = 1;
pub(super) const DATA: u8 = 2;
pub(super) const WINDOW: u8 = 3;
pub(super) const FIN: u8 = 4;
pub(super) const RESET: u8 = 5;

/// Limits of what an end accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Whether this end is the host, which opens odd ids.
    pub host: bool,
    /// Maximum length of a stream's header in bytes.
    pub max_header: usize,
    /// Maximum number of open streams of the peer.
    pub max_peer_streams: usize,
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A new stream and its header.
    Open(u32, &'a [u8]),
    /// Data; never empty.
    Data(u32, &'a [u8]),
    /// Additional credit in bytes; never zero.
    Window(u32, u32),
    /// The sender sends no more data.
    Fin(u32),
    /// The sender has dropped the stream.
    Reset(u32),
}

/// The start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A frame, and its length in bytes.
    Frame(Frame<'a>, usize),
    /// An incomplete frame, and the total number of bytes it needs.
    Need(usize),
}

/// Parses the first frame of `buf`.
///
/// # Errors
/// [`ChannelError::Protocol`], as soon as `buf` has the frame's header.
pub fn parse<'a>(buf: &'a [u8], limits: &Limits) -> Result<Parsed<'a>, ChannelError> {
    let Some((head, rest)) = buf.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Parsed::Need(HEADER_LEN));
    };
    let len = u32::from_le_bytes([head[1], head[2], head[3], 0]) as usize;
    let id = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let (valid, why) = match head[0] {
        OPEN => (len <= limits.max_header, "a stream header is too long"),
        DATA => ((1..=MAX_DATA).contains(&len), "a data frame is empty or too long"),
        WINDOW => (len == 4, "a window frame of the wrong length"),
        FIN | RESET => (len == 0, "a fin or reset frame with a payload"),
        _ => (false, "unknown frame kind"),
    };
    if !valid {
        return Err(ChannelError::Protocol(why));
    }
    let used = HEADER_LEN + len;
    let Some(payload) = rest.get(..len) else { return Ok(Parsed::Need(used)) };
    let frame = match (head[0], payload) {
        (OPEN, header) => Frame::Open(id, header),
        (DATA, bytes) => Frame::Data(id, bytes),
        (WINDOW, &[a, b, c, d]) => match u32::from_le_bytes([a, b, c, d]) {
            0 => return Err(ChannelError::Protocol("a window frame of zero")),
            credit => Frame::Window(id, credit),
        },
        (FIN, _) => Frame::Fin(id),
        _ => Frame::Reset(id),
    };
    Ok(Parsed::Frame(frame, used))
}

/// Appends a frame header. `len` must fit 24 bits; it is at most [`super::MAX_HOST_HEADER`].
pub(crate) fn put_header(out: &mut Vec<u8>, kind: u8, len: usize, id: u32) {
    #[allow(clippy::cast_possible_truncation)]
    let [a, b, c, _] = (len as u32).to_le_bytes();
    out.extend_from_slice(&[kind, a, b, c]);
    out.extend_from_slice(&id.to_le_bytes());
}
