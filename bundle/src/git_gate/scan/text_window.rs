//! The last part of a text that is read piece by piece, with its line numbers.

use zeroize::Zeroizing;

/// Most bytes of a text that are scanned in one step.
pub const PIECE_BYTES: usize = 64 << 10;
/// Most bytes of a finding that its fingerprint is made of.
const MAX_EVIDENCE_BYTES: usize = 512;
/// A line that is shorter than this after a finding takes the following lines with it, in bytes.
const SHORT_LINE_BYTES: usize = 32;

/// The last 128 KiB of a text.
#[derive(Debug, Default)]
pub struct TextWindow {
    kept: Vec<u8>,
    /// Offset of `kept` in the text, in bytes.
    start: u64,
    /// Line at `start`, from 0.
    line: u64,
    magic: Vec<u8>,
}

impl TextWindow {
    /// Appends the next piece of the text.
    pub fn push(&mut self, piece: &[u8]) {
        self.magic.extend(piece.iter().take(4 - self.magic.len().min(4)));
        let over =
            (self.kept.len() + piece.len()).saturating_sub(2 * PIECE_BYTES).min(self.kept.len());
        self.line += self.kept[..over].iter().filter(|b| **b == b'\n').count() as u64;
        self.start += over as u64;
        self.kept.drain(..over);
        self.kept.extend_from_slice(piece);
    }

    /// Whether the text starts like gzip, zstd or zlib data.
    #[must_use]
    pub fn looks_compressed(&self) -> bool {
        let m = &self.magic;
        m.starts_with(&[0x1f, 0x8b])
            || m.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || (m.first() == Some(&0x78) && m.len() > 1 && !m[1].is_ascii_graphic())
    }

    /// The line at `offset`, from 1.
    #[must_use]
    pub fn line_number(&self, offset: u64) -> u64 {
        let before = usize::try_from(offset.saturating_sub(self.start))
            .unwrap_or(usize::MAX)
            .min(self.kept.len());
        self.line + 1 + self.kept[..before].iter().filter(|b| **b == b'\n').count() as u64
    }

    /// The text from `offset` to the end of its line, which a fingerprint is made of. A finding
    /// starts at its keyword, and what distinguishes two keys may be in later lines: a short line
    /// and the start of a PEM block take them with it.
    #[must_use]
    pub fn evidence(&self, offset: u64) -> Option<Zeroizing<Vec<u8>>> {
        let rest = self.kept.get(usize::try_from(offset.checked_sub(self.start)?).ok()?..)?;
        let line = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let whole = line < SHORT_LINE_BYTES || rest.starts_with(b"-----BEGIN");
        let end = if whole { rest.len() } else { line };
        Some(Zeroizing::new(rest[..end.min(MAX_EVIDENCE_BYTES)].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_words_are_found_in_texts_of_any_length() {
        let mut window = TextWindow::default();
        let mut text = b"first\nsecond key='abcdefgh' x\n".repeat(20_000);
        text.extend_from_slice(b"last token-here");
        for piece in text.chunks(PIECE_BYTES) {
            window.push(piece);
        }
        let at =
            |needle: &[u8]| text.windows(needle.len()).rposition(|w| w == needle).unwrap() as u64;
        assert_eq!(window.line_number(at(b"last")), 40_001);
        assert_eq!(&**window.evidence(at(b"token-here")).unwrap(), b"token-here");
        assert_eq!(
            &**window.evidence(at(b"abcdefgh")).unwrap(),
            b"abcdefgh' x\nlast token-here",
            "a short line takes the next with it"
        );
        assert!(window.evidence(3).is_none(), "it is no longer in the window");
    }
}
