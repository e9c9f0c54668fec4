//! The head of a request, byte by byte, and what it says about the body (RFC 9112).

use crate::egress::refusal::{Checks, Refusal, Rule};

/// Longest head, bytes.
pub const MAX_HEAD_BYTES: usize = 60 * 1024;

/// Most lines of a head; hyper's own limit.
const MAX_HEAD_LINES: usize = 100;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The next head.
    Empty,
    /// A body of so many bytes.
    Sized(u64),
    /// A chunked body.
    Chunked,
    /// After CONNECT, or after a request for a WebSocket, what follows may not be HTTP.
    Tunnel,
}

/// Reads one head that arrives in pieces.
#[derive(Debug, Default)]
pub struct HeadReader {
    line_start: usize,
    scanned: usize,
    lines: Vec<(usize, usize)>,
}

impl HeadReader {
    /// Reads `input`, which starts with the head and has grown since the last call. Returns the
    /// length of the head and what follows it, once the head is complete.
    ///
    /// # Errors
    /// The rule that the head breaks.
    pub fn feed(
        &mut self,
        input: &[u8],
        checks: &Checks,
    ) -> Result<Option<(usize, Framing)>, Refusal> {
        while let Some(n) = input[self.scanned..].iter().position(|b| *b == b'\n') {
            let lf = self.scanned + n;
            let line = &input[self.line_start..lf];
            let crlf = line.ends_with(b"\r");
            checks.refuse_if(!crlf, Rule::BareLf, || "a line ends without CR".to_owned())?;
            let end = if crlf { lf - 1 } else { lf };
            let start = std::mem::replace(&mut self.line_start, lf + 1);
            self.scanned = lf + 1;
            if end == start && !self.lines.is_empty() {
                let lines: Vec<&[u8]> =
                    self.lines.iter().map(|(from, to)| &input[*from..*to]).collect();
                return Ok(Some((lf + 1, framing(&lines, checks)?)));
            }
            self.lines.push((start, end));
            checks.refuse_if(self.lines.len() > MAX_HEAD_LINES, Rule::HeadTooLarge, || {
                "too many header lines".to_owned()
            })?;
        }
        self.scanned = input.len();
        checks.refuse_if(input.len() > MAX_HEAD_BYTES, Rule::HeadTooLarge, || {
            "the head is too large".to_owned()
        })?;
        Ok(None)
    }
}

/// Headers that decide where the body ends.
#[derive(Default)]
struct FramingHeaders<'a> {
    lengths: Vec<&'a [u8]>,
    codings: Vec<&'a [u8]>,
    hosts: usize,
    websocket: bool,
}

fn framing(lines: &[&[u8]], checks: &Checks) -> Result<Framing, Refusal> {
    let (first, lines) =
        lines.split_first().ok_or_else(|| Refusal::new(Rule::RequestLine, "no request line"))?;
    let (connect, http10) = request_line(first, checks)?;
    let mut headers = FramingHeaders::default();
    for line in lines {
        let (name, value) = header_line(line, checks)?;
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => headers.lengths.push(value),
            b"transfer-encoding" => headers.codings.push(value),
            b"host" => headers.hosts += 1,
            b"upgrade" => headers.websocket |= names_websocket(value),
            _ => {}
        }
    }
    let FramingHeaders { lengths, codings, hosts, websocket } = headers;
    checks.refuse_if(hosts > 1, Rule::DuplicateHost, || "more than one Host".to_owned())?;
    checks.refuse_if(hosts == 0 && !connect, Rule::MissingHost, || "no Host".to_owned())?;
    let both = !lengths.is_empty() && !codings.is_empty();
    checks.refuse_if(both, Rule::TeAndCl, || {
        "both Transfer-Encoding and Content-Length".to_owned()
    })?;
    checks.refuse_if(lengths.len() > 1, Rule::DuplicateLength, || {
        "more than one Content-Length".to_owned()
    })?;
    let chunked = matches!(codings[..], [one] if one.eq_ignore_ascii_case(b"chunked")) && !http10;
    checks.refuse_if(!codings.is_empty() && !chunked, Rule::TransferEncoding, || {
        "Transfer-Encoding is not exactly one `chunked`, in HTTP/1.1".to_owned()
    })?;
    let length = lengths.first().map_or(Ok(0), |digits| content_length(digits, checks))?;
    let body = length > 0 || !codings.is_empty();
    if connect {
        checks.refuse_if(body, Rule::ConnectBody, || "CONNECT has no body".to_owned())?;
        return Ok(Framing::Tunnel);
    }
    if websocket && !body {
        return Ok(Framing::Tunnel); // until the upstream has answered
    }
    Ok(match (codings.is_empty(), length) {
        (false, _) => Framing::Chunked,
        (true, 0) => Framing::Empty,
        (true, n) => Framing::Sized(n),
    })
}

/// Name and value of a header line, without white space around the value.
fn header_line<'a>(line: &'a [u8], checks: &Checks) -> Result<(&'a [u8], &'a [u8]), Refusal> {
    checks.refuse_if(matches!(line.first(), Some(b' ' | b'\t')), Rule::ObsFold, || {
        "obsolete line folding (obs-fold)".to_owned()
    })?;
    let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
    let (name, value) = (&line[..colon], line.get(colon + 1..));
    let token = !name.is_empty() && name.iter().all(|b| is_token(*b));
    checks.refuse_if(!token || value.is_none(), Rule::HeaderName, || {
        "a header name is not a token".to_owned()
    })?;
    let value = value.unwrap_or_default();
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |end| end + 1);
    let value = &value[start..end];
    let control = value.iter().any(|b| b.is_ascii_control() && *b != b'\t');
    checks.refuse_if(control, Rule::HeaderValue, || {
        "a header value has a control character".to_owned()
    })?;
    Ok((name, value))
}

fn content_length(digits: &[u8], checks: &Checks) -> Result<u64, Refusal> {
    let plain = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    checks.refuse_if(!plain, Rule::Length, || "Content-Length is not a plain number".to_owned())?;
    Ok(std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok()).unwrap_or(0))
}

/// Returns whether the method is CONNECT, and whether the version is HTTP/1.0.
fn request_line(line: &[u8], checks: &Checks) -> Result<(bool, bool), Refusal> {
    let bad = |why: &str| Refusal::new(Rule::RequestLine, why);
    let parts: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(bad("the first line is not METHOD TARGET VERSION"));
    };
    checks.refuse_if(!is_method(method), Rule::RequestLine, || "not a method".to_owned())?;
    let http10 = version == b"HTTP/1.0";
    checks.refuse_if(!http10 && version != b"HTTP/1.1", Rule::RequestLine, || {
        "not HTTP/1.1".to_owned()
    })?;
    // hyper would drop a fragment silently, and answer a bad target without an audit line.
    checks
        .refuse_if(target.contains(&b'#'), Rule::Path, || "the path has a fragment".to_owned())?;
    checks
        .refuse_if(target.contains(&b'\\'), Rule::Path, || "the path has a backslash".to_owned())?;
    let graphic = !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
    checks.refuse_if(
        !graphic || http::Uri::try_from(target).is_err(),
        Rule::RequestLine,
        || "not a request target".to_owned(),
    )?;
    Ok((method == b"CONNECT", http10))
}

/// Whether `text` is a method: upper-case letters and `-`, at most 32.
#[must_use]
pub fn is_method(text: &[u8]) -> bool {
    (1..=32).contains(&text.len()) && text.iter().all(|b| b.is_ascii_uppercase() || *b == b'-')
}

/// Whether a header's name may have this character (RFC 9110 section 5.6.2).
#[must_use]
pub fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Whether the value of an Upgrade header asks for a WebSocket. The reader of the connection and the
/// handler of the request both decide by this.
#[must_use]
pub fn names_websocket(value: &[u8]) -> bool {
    value.to_ascii_lowercase().windows(9).any(|w| w == b"websocket")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(usize, Framing)>, Rule> {
        let whole =
            HeadReader::default().feed(text.as_bytes(), &Checks::default()).map_err(|r| r.rule);
        // However the bytes arrive, the reading is the same.
        let mut head = HeadReader::default();
        let mut slow = Ok(None);
        for end in 0..=text.len() {
            slow = head.feed(&text.as_bytes()[..end], &Checks::default()).map_err(|r| r.rule);
            if !matches!(slow, Ok(None)) {
                break;
            }
        }
        assert_eq!(whole, slow, "{text:?}");
        whole
    }

    #[test]
    fn plain_heads_have_one_framing() {
        for (text, want) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Empty),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", Framing::Sized(5)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Framing::Tunnel),
            ("CONNECT a:443 HTTP/1.0\r\n\r\n", Framing::Tunnel),
        ] {
            assert_eq!(read(text), Ok(Some((text.len(), want))), "{text:?}");
        }
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    }

    #[test]
    fn long_heads_are_cut_off() {
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(200));
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "y".repeat(MAX_HEAD_BYTES));
        for text in [many, long] {
            assert_eq!(
                HeadReader::default().feed(text.as_bytes(), &Checks::default()).map_err(|r| r.rule),
                Err(Rule::HeadTooLarge)
            );
        }
    }
}
