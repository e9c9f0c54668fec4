//! Chunked coding, read strictly: no extensions, CRLF line ends only, and only header lines as
//! trailers.

use super::request_head::is_token;

/// Where in a chunked body the reader is.
#[derive(Debug)]
pub enum Chunked {
    /// In a size line; the value and the number of digits so far.
    Size(u64, u8),
    /// After the size's CR.
    SizeLf(u64),
    /// In data, bytes left.
    Data(u64),
    /// Before the CR that ends data.
    DataCr,
    /// Before the LF that ends data.
    DataLf,
    /// Before a trailer, or before the CR that ends the body; the trailer bytes so far.
    LastCr(u16),
    /// In a trailer's name.
    TrailerName(u16),
    /// In a trailer's value.
    TrailerValue(u16),
    /// Before the LF that ends a trailer.
    TrailerLf(u16),
    /// Before the LF that ends the body.
    LastLf,
}

/// Longest trailers, bytes.
const MAX_TRAILER_BYTES: u16 = 8 * 1024;

/// The body is not well-formed chunked coding.
#[derive(Debug, PartialEq, Eq)]
pub struct BadChunk;

impl Default for Chunked {
    fn default() -> Self {
        Self::Size(0, 0)
    }
}

impl Chunked {
    /// Returns how many bytes of `input` belong to the body, and whether it ends with them.
    ///
    /// # Errors
    /// [`BadChunk`].
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, bool), BadChunk> {
        let mut at = 0;
        while let Some(b) = input.get(at) {
            *self = match (&*self, b) {
                (Self::Data(left), _) => {
                    let rest = input.len() - at;
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(rest);
                    at += n;
                    *self =
                        if n as u64 == *left { Self::DataCr } else { Self::Data(*left - n as u64) };
                    continue;
                }
                (Self::Size(n, digits), b) if b.is_ascii_hexdigit() && *digits < 15 => Self::Size(
                    n * 16 + u64::from(char::from(*b).to_digit(16).unwrap_or(0)),
                    digits + 1,
                ),
                (Self::Size(n, 1..), b'\r') => Self::SizeLf(*n),
                (Self::SizeLf(0), b'\n') => Self::LastCr(0),
                (Self::SizeLf(n), b'\n') => Self::Data(*n),
                (Self::DataCr, b'\r') => Self::DataLf,
                (Self::DataLf, b'\n') => Self::default(),
                (Self::LastCr(_), b'\r') => Self::LastLf,
                (Self::LastCr(n) | Self::TrailerName(n), b)
                    if is_token(*b) && *n < MAX_TRAILER_BYTES =>
                {
                    Self::TrailerName(n + 1)
                }
                (Self::TrailerName(n), b':') => Self::TrailerValue(*n),
                (Self::TrailerValue(n), b'\r') => Self::TrailerLf(*n),
                (Self::TrailerValue(n), b)
                    if (!b.is_ascii_control() || *b == b'\t') && *n < MAX_TRAILER_BYTES =>
                {
                    Self::TrailerValue(n + 1)
                }
                (Self::TrailerLf(n), b'\n') => Self::LastCr(*n),
                (Self::LastLf, b'\n') => return Ok((at + 1, true)),
                _ => return Err(BadChunk),
            };
            at += 1;
        }
        Ok((at, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_it_says_however_it_is_cut() {
        let body = b"5\r\nhello\r\n0A\r\n0123456789\r\n0\r\n\r\n";
        let trailed = b"1\r\na\r\n0\r\nx-a: b c\r\nx-d:\r\n\r\n";
        assert_eq!(Chunked::default().feed(trailed), Ok((trailed.len(), true)));
        let endless = [&b"0\r\n"[..], &b"x: y\r\n".repeat(4000)].concat();
        assert_eq!(Chunked::default().feed(&endless), Err(BadChunk));
        let more = [&body[..], b"GET"].concat();
        assert_eq!(Chunked::default().feed(&more), Ok((body.len(), true)));
        let mut c = Chunked::default();
        for (n, b) in body.iter().enumerate() {
            assert_eq!(c.feed(&[*b]), Ok((1, n + 1 == body.len())), "{n}");
        }
    }

    #[test]
    fn anything_else_is_an_error() {
        for bad in [
            &b"\r\n"[..],
            b"5;x=y\r\n",
            b"5 \r\n",
            b" 5\r\n",
            b"+5\r\n",
            b"0x5\r\n",
            b"-1\r\n",
            b"5\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"0\r\nx\r\n",
            b"0\r\n: y\r\n",
            b"0\r\nx : y\r\n",
            b"0\r\nx: y\n",
            b"0\r\n x: y\r\n",
            b"0\r\nx: \0\r\n",
            b"0\r\nGET / HTTP/1.1\r\n",
            b"0\r\n\n",
            b"1111111111111111\r\n",
        ] {
            assert_eq!(
                Chunked::default().feed(bad),
                Err(BadChunk),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
    }
}
