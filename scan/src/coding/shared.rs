//! What the decoders of single codings share.

/// Bytes decoded in one go.
pub(super) const BUFFER: usize = 16 << 10;

/// Why decoding ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The coding is broken, or there is something after its end.
    Corrupt,
    /// It grows too much.
    Bomb,
    /// What was decoded is to be blocked.
    Found,
}

pub(super) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Stop>;

/// A coding that is decoded piece by piece.
pub(super) trait Decode: Send + Sync {
    /// Takes coded bytes and hands the decoded ones to `sink`.
    fn push(&mut self, input: &[u8], sink: Sink<'_>) -> Result<(), Stop>;
    /// Whether the coded bytes may end here.
    fn is_whole(&self) -> bool;
    /// How many of the bytes that it was given are not decoded yet.
    fn pending(&self) -> usize {
        0
    }
}
