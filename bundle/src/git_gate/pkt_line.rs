//! pkt-lines, gitprotocol-common(5): four hex digits of length, themselves counted, then so many
//! bytes.

use crate::git_gate::refusal::{Refusal, Rule};

/// Longest pkt-line, bytes, its length included.
pub const MAX: usize = 65520;

/// One pkt-line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pkt<'a> {
    /// `0000`.
    Flush,
    /// `0001`.
    Delim,
    /// `0002`.
    ResponseEnd,
    /// Anything else, without its length.
    Data(&'a [u8]),
}

/// The pkt-line that `buf` begins with, and its whole length; `None` while it is not all there.
///
/// # Errors
/// [`Rule::PktLine`].
pub fn next(buf: &[u8]) -> Result<Option<(Pkt<'_>, usize)>, Refusal> {
    let Some((digits, rest)) = buf.split_first_chunk::<4>() else { return Ok(None) };
    let mut len = 0;
    for digit in digits {
        let value = char::from(*digit)
            .to_digit(16)
            .ok_or_else(|| Refusal::new(Rule::PktLine, "a pkt-line's length is not hex"))?;
        len = len * 16 + value as usize;
    }
    match len {
        0 => Ok(Some((Pkt::Flush, 4))),
        1 => Ok(Some((Pkt::Delim, 4))),
        2 => Ok(Some((Pkt::ResponseEnd, 4))),
        3 => Err(Refusal::new(Rule::PktLine, "a pkt-line has the length 3")),
        _ if len > MAX => Err(Refusal::new(Rule::PktLine, "a pkt-line is too long")),
        _ => Ok(rest.get(..len - 4).map(|data| (Pkt::Data(data), len))),
    }
}

/// Appends `data` as one pkt-line; what is longer than a pkt-line can be is cut.
pub fn data(out: &mut Vec<u8>, data: &[u8]) {
    let data = &data[..data.len().min(MAX - 4)];
    out.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    out.extend_from_slice(data);
}

/// Appends `0000`.
pub fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0000");
}

/// Appends `bytes` to a sideband, in as many pkt-lines as it takes.
pub fn band(out: &mut Vec<u8>, band: u8, bytes: &[u8]) {
    for piece in bytes.chunks(MAX - 5) {
        out.extend_from_slice(format!("{:04x}", piece.len() + 5).as_bytes());
        out.push(band);
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_when_it_is_all_there() {
        assert_eq!(next(b"0000rest").unwrap(), Some((Pkt::Flush, 4)));
        assert_eq!(next(b"0001").unwrap(), Some((Pkt::Delim, 4)));
        assert_eq!(next(b"0004").unwrap(), Some((Pkt::Data(b""), 4)));
        assert_eq!(next(b"0006a\nb").unwrap(), Some((Pkt::Data(b"a\n"), 6)));
        for short in ["", "0", "000", "0006a"] {
            assert_eq!(next(short.as_bytes()).unwrap(), None, "{short}");
        }
        for bad in ["0003", "fff1", "ffff", "00g0", "+001", " 001", "0x10"] {
            assert_eq!(next(bad.as_bytes()).unwrap_err().rule, Rule::PktLine, "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = Vec::new();
        data(&mut out, b"hello");
        band(&mut out, 2, &vec![b'x'; MAX]);
        flush(&mut out);
        let (mut at, mut sizes) = (0, Vec::new());
        while let Some((pkt, len)) = next(&out[at..]).unwrap() {
            sizes.push(if let Pkt::Data(d) = pkt { d.len() } else { 0 });
            at += len;
        }
        assert_eq!((at, sizes), (out.len(), vec![5, MAX - 4, 6, 0]));
    }
}
