//! A daemon under test, and a guest that sends it bytes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::site::Site;
use super::support::{Egress, Program};

/// A response.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of the rule that refused the request.
    pub fn refused(&self) -> Option<&str> {
        self.header("x-bottle-refused")
    }
}

/// Reads one response. If none arrives, the status is 0.
pub fn answer(io: impl Read, head: bool) -> Answer {
    next_answer(&mut BufReader::new(io), head)
}

/// The same, and leaves what follows the response in `io`.
pub fn next_answer(io: &mut impl BufRead, head: bool) -> Answer {
    let mut line = String::new();
    let _ = io.read_line(&mut line);
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut answer = Answer { status, ..Answer::default() };
    loop {
        let mut line = String::new();
        let _ = io.read_line(&mut line);
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        answer.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if head || matches!(status, 0 | 101 | 204 | 304) {
        return answer;
    }
    if answer.header("transfer-encoding").is_some() {
        let mut size = String::new();
        while io.read_line(&mut size).is_ok_and(|n| n > 0) {
            let length = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            let mut part = vec![0; length + 2];
            if io.read_exact(&mut part).is_err() || length == 0 {
                break;
            }
            answer.body.extend_from_slice(&part[..length]);
            size.clear();
        }
    } else if let Some(length) = answer.header("content-length").and_then(|l| l.parse().ok()) {
        let _ = io.take(length).read_to_end(&mut answer.body);
    } else {
        let _ = io.read_to_end(&mut answer.body);
    }
    answer
}

/// A running daemon, its upstreams, and how far its audit log has been read.
pub struct Guest {
    pub egress: Egress,
    pub site: Site,
    audit_read: usize,
}

impl Guest {
    pub fn start(program: &Program, site: Site, policy: &str) -> Self {
        let egress =
            Egress::spawn_program(program, tempfile::tempdir().unwrap(), policy, &Egress::input())
                .ready();
        Self { egress, site, audit_read: 0 }
    }

    /// Sends bytes into a tunnel to `host`, or without a host to the socket.
    pub fn send(&self, host: Option<&str>, bytes: &str) -> Answer {
        let head = bytes.starts_with("HEAD ");
        match host {
            Some(host) => {
                let mut io = self.egress.tls(host);
                let _ = io.write_all(bytes.as_bytes());
                answer(&mut io, head)
            }
            None => {
                let mut io = self.egress.connect();
                let _ = io.write_all(bytes.as_bytes());
                answer(&mut io, head)
            }
        }
    }

    pub fn get(&self, host: &str, path: &str) -> Answer {
        self.send(Some(host), &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// The audit lines since the last call. Waits, at most a second, until there is one and every
    /// admitted request has its closing line.
    pub fn audited(&mut self) -> Vec<serde_json::Value> {
        self.wait(|lines| lines.iter().any(closes))
    }

    /// Skips the lines of earlier requests, including those that are still to be written.
    pub fn forget_audit(&mut self) {
        self.wait(|_| true);
    }

    fn wait(&mut self, enough: impl Fn(&[serde_json::Value]) -> bool) -> Vec<serde_json::Value> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let text = fs::read_to_string(self.egress.audit()).unwrap();
            let lines: Vec<serde_json::Value> = text
                .lines()
                .skip(self.audit_read)
                .map(|l| serde_json::from_str(l).unwrap())
                .collect();
            let open = lines.iter().filter(|l| !closes(l)).count();
            let closed = lines.iter().filter(|l| closes(l) && !l["admitted"].is_null()).count();
            if (open <= closed && enough(&lines)) || Instant::now() > deadline {
                self.audit_read += lines.len();
                return lines;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn log(&self) -> PathBuf {
        self.egress.audit()
    }
}

fn closes(line: &serde_json::Value) -> bool {
    line["event"] != "admitted"
}
