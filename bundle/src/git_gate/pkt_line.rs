//! pkt-lines, gitprotocol-common(5): four hex digits with the length of the whole line, then the
//! data.

use crate::git_gate::refusal::{Refusal, Rule};

/// Longest pkt-line in bytes, its four length digits included.
pub const MAX_BYTES: usize = 65520;
/// Most data bytes that one pkt-line of a side band carries.
pub const MAX_BAND_BYTES: usize = MAX_BYTES - 5;

/// Side band of the data that was asked for.
pub const BAND_DATA: u8 = 1;
/// Side band of messages that the client prints after `remote: `.
pub const BAND_PROGRESS: u8 = 2;
/// Side band of an error, after which the client gives up.
pub const BAND_ERROR: u8 = 3;
/// An empty progress message, sent as a keep-alive.
pub const KEEP_ALIVE: &[u8] = b"0005\x02";

/// One pkt-line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pkt<'a> {
    /// flush-pkt, `0000`.
    Flush,
    /// delim-pkt, `0001`.
    Delim,
    /// response-end-pkt, `0002`.
    ResponseEnd,
    /// A line with data, without its length.
    Data(&'a [u8]),
}

/// The pkt-line at the start of `buf` and its length in bytes; `None` if `buf` ends inside it.
///
/// # Errors
/// [`Rule::PktLine`].
pub fn next(buf: &[u8]) -> Result<Option<(Pkt<'_>, usize)>, Refusal> {
    let Some((digits, rest)) = buf.split_first_chunk::<4>() else { return Ok(None) };
    let mut len = 0;
    for digit in digits {
        let value = char::from(*digit)
            .to_digit(16)
            .ok_or_else(|| Refusal::new(Rule::PktLine, "the length of a pkt-line is not hex"))?;
        len = len * 16 + value as usize;
    }
    match len {
        0 => Ok(Some((Pkt::Flush, 4))),
        1 => Ok(Some((Pkt::Delim, 4))),
        2 => Ok(Some((Pkt::ResponseEnd, 4))),
        3 => Err(Refusal::new(Rule::PktLine, "a pkt-line has length 3, which is not valid")),
        _ if len > MAX_BYTES => Err(Refusal::new(Rule::PktLine, "a pkt-line is too long")),
        _ => Ok(rest.get(..len - 4).map(|data| (Pkt::Data(data), len))),
    }
}

/// Appends `data` as one pkt-line. Data that does not fit is cut.
pub fn data(out: &mut Vec<u8>, data: &[u8]) {
    let data = &data[..data.len().min(MAX_BYTES - 4)];
    out.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    out.extend_from_slice(data);
}

/// Appends a flush-pkt.
pub fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0000");
}

/// Appends `bytes` on the side band `band`, in as many pkt-lines as needed.
pub fn band(out: &mut Vec<u8>, band: u8, bytes: &[u8]) {
    for piece in bytes.chunks(MAX_BAND_BYTES) {
        out.extend_from_slice(format!("{:04x}", piece.len() + 5).as_bytes());
        out.push(band);
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_when_it_is_complete() {
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
    fn written_lines_are_read_back() {
        let mut out = Vec::new();
        data(&mut out, b"hello");
        band(&mut out, BAND_PROGRESS, &vec![b'x'; MAX_BYTES]);
        flush(&mut out);
        let (mut at, mut sizes) = (0, Vec::new());
        while let Some((pkt, len)) = next(&out[at..]).unwrap() {
            sizes.push(if let Pkt::Data(d) = pkt { d.len() } else { 0 });
            at += len;
        }
        assert_eq!((at, sizes), (out.len(), vec![5, MAX_BYTES - 4, 6, 0]));
    }
}
