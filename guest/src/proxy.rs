//! A minimal HTTP client: sends one request to a port of this guest, and reads the head of the
//! response and the start of its body.

use std::time::Duration;

use bottle_text::remove;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Maximum time for a response. It is long because the machine may be emulated on a busy host.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The first line of the body, or else the reason phrase.
    pub reason: String,
}

/// Sends `request` to 127.0.0.1:`port`.
///
/// # Errors
/// One line: there was no connection, no response in time, or the response was not HTTP.
pub async fn ask(port: u16, request: &str) -> Result<Answer, String> {
    let exchange = async {
        let mut stream =
            TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| format!("connect: {e}"))?;
        stream.write_all(request.as_bytes()).await.map_err(|e| format!("send: {e}"))?;
        let mut answer = Vec::new();
        let mut buf = [0; 2048];
        while answer.len() < MAX_ANSWER_BYTES && !is_complete(&answer) {
            match stream.read(&mut buf).await {
                Ok(0) => break,
                Ok(n) => answer.extend_from_slice(&buf[..n]),
                Err(e) if answer.is_empty() => return Err(format!("read: {e}")),
                Err(_) => break,
            }
        }
        parse(&String::from_utf8_lossy(&answer))
    };
    tokio::time::timeout(ANSWER_DEADLINE, exchange)
        .await
        .map_err(|_| format!("no answer within {} s", ANSWER_DEADLINE.as_secs()))?
}

/// The request that asks a proxy for a tunnel to `authority` (HOST:PORT).
pub fn connect(authority: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

/// A request that every HTTP server answers in some way.
pub fn get(port: u16) -> String {
    format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\nConnection: close\r\n\r\n")
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Whether `answer` has the head and as many bytes of the body as Content-Length says. Without that
/// header, the head is enough.
fn is_complete(answer: &[u8]) -> bool {
    let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..at]);
    let length: usize = header(&head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    answer.len() >= at + 4 + length.min(MAX_ANSWER_BYTES)
}

fn parse(answer: &str) -> Result<Answer, String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.splitn(3, ' ');
    let status = match (words.next(), words.next().map(str::parse::<u16>)) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(Ok(status))) if (100..600).contains(&status) => status,
        _ if answer.is_empty() => return Err("closed without an answer".into()),
        _ => return Err("the answer is not HTTP".into()),
    };
    let phrase = words.next().unwrap_or_default();
    let reason = body.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or(phrase);
    Ok(Answer { status, reason: remove(reason, 160) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn responses_are_parsed() {
        let denied = "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno route\n";
        assert_eq!(parse(denied).unwrap(), Answer { status: 403, reason: "no route".into() });
        assert_eq!(parse("HTTP/1.1 403 Forbidden\r\n\r\n").unwrap().reason, "Forbidden");
        assert!(parse("SSH-2.0-OpenSSH").is_err());
        assert!(parse("").is_err());
        assert!(is_complete(denied.as_bytes()));
        assert!(!is_complete(&denied.as_bytes()[..50]));
    }
}
