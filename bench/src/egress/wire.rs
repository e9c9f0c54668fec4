//! As much of HTTP/1.1 as a benchmark's two ends need: heads, lengths, chunks. It trusts its peer.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// A stream of bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// After so many bytes.
    Sized(u64),
    /// With an empty chunk.
    Chunked,
}

/// Reads messages from `io`.
pub struct Reader<S> {
    /// What is read from, and may be written to.
    pub io: S,
    buf: Vec<u8>,
    /// Read and not yet consumed: `buf[start..end]`.
    start: usize,
    end: usize,
}

impl<S: Io> Reader<S> {
    /// Nothing is read yet.
    pub fn new(io: S) -> Self {
        Self { io, buf: vec![0; 32 * 1024], start: 0, end: 0 }
    }

    /// The next head, its last empty line included, and the length of its body; `None` at the end of the connection.
    pub async fn head(&mut self) -> io::Result<Option<(&[u8], Length)>> {
        let mut seen = 0;
        let length = loop {
            let have = &self.buf[self.start..self.end];
            if let Some(n) = have[seen..].windows(4).position(|w| w == b"\r\n\r\n") {
                break seen + n + 4;
            }
            seen = have.len().saturating_sub(3);
            if self.more().await? == 0 {
                return if self.start == self.end { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let head = &self.buf[self.start..self.start + length];
        self.start += length;
        Ok(Some((head, body_length(head))))
    }

    /// Reads a body to its end and throws it away; its bytes, framing not counted.
    pub async fn skip(&mut self, length: Length) -> io::Result<u64> {
        match length {
            Length::Sized(n) => self.skip_bytes(n).await.map(|()| n),
            Length::Chunked => {
                let mut all = 0;
                loop {
                    let size = self.line().await?;
                    let bad = || io::Error::from(io::ErrorKind::InvalidData);
                    let size = u64::from_str_radix(std::str::from_utf8(&size).map_err(|_| bad())?, 16).map_err(|_| bad())?;
                    if size == 0 {
                        while !self.line().await?.is_empty() {}
                        return Ok(all);
                    }
                    self.skip_bytes(size + 2).await?;
                    all += size;
                }
            }
        }
    }

    async fn skip_bytes(&mut self, mut left: u64) -> io::Result<()> {
        loop {
            let n = left.min((self.end - self.start) as u64);
            self.start += usize::try_from(n).unwrap_or(0);
            left -= n;
            if left == 0 {
                return Ok(());
            }
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let have = &self.buf[self.start..self.end];
            if let Some(n) = have.windows(2).position(|w| w == b"\r\n") {
                let line = have[..n].to_vec();
                self.start += n + 2;
                return Ok(line);
            }
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn more(&mut self) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buf.len() {
            return Err(io::ErrorKind::OutOfMemory.into()); // a head or line over 32 KiB
        }
        let n = self.io.read(&mut self.buf[self.end..]).await?;
        self.end += n;
        Ok(n)
    }
}

fn body_length(head: &[u8]) -> Length {
    let value = |name: &[u8]| {
        let line = head.split(|b| *b == b'\n').find(|l| l.len() > name.len() && l[..name.len()].eq_ignore_ascii_case(name))?;
        Some(line[name.len()..].trim_ascii())
    };
    if value(b"transfer-encoding:").is_some() {
        return Length::Chunked;
    }
    let digits = value(b"content-length:").and_then(|v| std::str::from_utf8(v).ok());
    Length::Sized(digits.and_then(|d| d.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn messages_follow_each_other() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nX\r\n\r\n";
        let (near, mut far) = tokio::io::duplex(7);
        let write = async move { tokio::io::AsyncWriteExt::write_all(&mut far, text).await.map(|()| drop(far)) };
        let read = async {
            let mut reader = Reader::new(near);
            for want in [(Length::Sized(3), 3), (Length::Chunked, 2), (Length::Sized(0), 0)] {
                let length = reader.head().await.unwrap().unwrap().1;
                assert_eq!((length, reader.skip(length).await.unwrap()), want);
            }
            assert!(reader.head().await.unwrap().is_none());
        };
        let (written, ()) = tokio::join!(write, read);
        written.unwrap();
    }
}
