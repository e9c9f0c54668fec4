//! The audit log: one JSON object a line, each line chained to the one before by SHA-256.
//!
//! `hash` is the last member of every line. It is SHA-256 (lower hex) over the text of `prev` followed by the line's
//! bytes up to, and without, `,"hash":"…"}`. Nothing is parsed and written again to verify a line, so no question of
//! canonical JSON arises and every flipped byte shows. The first line's `prev` is 64 zeros. What a chain cannot show
//! is that lines were cut off its end: keep [`Verified::last_hash`] elsewhere to detect that.

mod verify;
mod writer;

pub use verify::{AuditBroken, Verified, verify};
pub use writer::{AuditError, AuditWriter};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest text that one field keeps, in characters; what is longer ends in `…`.
pub const FIELD_CAP: usize = 1024;

/// `prev` of the first line.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It went on.
    Allow,
    /// It was stopped.
    Deny,
}

/// What a daemon says about one decision. Texts may come from the guest: the writer caps them and escapes controls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Daemon that writes, such as `egress`.
    pub daemon: String,
    /// What happened: `request`, `refused`, `recovered`, …
    pub event: String,
    /// The decision.
    pub verdict: Verdict,
    /// Stable name of the rule that decided against, or of what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The same for people, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Host that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// TCP port that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Normalised path, without query: a query may hold secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Length of the query in bytes, without `?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_bytes: Option<u64>,
    /// Name of the route that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// HTTP status that the guest was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Body bytes from the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// Body bytes to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    /// Milliseconds from the request's head to the end of its response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
}

impl AuditEvent {
    /// An event with nothing but its kind.
    #[must_use]
    pub fn new(daemon: &str, event: &str, verdict: Verdict) -> Self {
        Self {
            daemon: daemon.to_owned(),
            event: event.to_owned(),
            verdict,
            rule: None,
            reason: None,
            method: None,
            host: None,
            port: None,
            path: None,
            query_bytes: None,
            route: None,
            status: None,
            bytes_up: None,
            bytes_down: None,
            ms: None,
        }
    }

    /// The event with every text capped and without characters that a terminal or another tool would act on.
    pub(crate) fn cleaned(mut self) -> Self {
        for text in [&mut self.daemon, &mut self.event] {
            *text = clean(text);
        }
        let optional = [&mut self.rule, &mut self.reason, &mut self.method, &mut self.host, &mut self.path, &mut self.route];
        for text in optional.into_iter().flatten() {
            *text = clean(text);
        }
        self
    }
}

/// One line of the log, its hash apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Format version, 1.
    pub v: u32,
    /// Number of the line, from 1.
    pub seq: u64,
    /// UTC, RFC 3339, with milliseconds.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub what: AuditEvent,
    /// `hash` of the line before.
    pub prev: String,
    /// Hash of this line; see the module's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// `text` in at most [`FIELD_CAP`] characters, with control, format and line-separator characters as `\u{…}`.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(FIELD_CAP));
    for (n, c) in text.chars().enumerate() {
        if n == FIELD_CAP {
            out.push('…');
            break;
        }
        // Bidirectional and zero-width characters can make a line look like another in a terminal.
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || hidden {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Hash of a line whose bytes before `,"hash":` are `body`.
fn line_hash(prev: &str, body: &[u8]) -> String {
    let mut h = Sha256::new();
    h.update(prev.as_bytes());
    h.update(body);
    hex::encode(h.finalize())
}

/// Splits a line (without its newline) into the hashed bytes and the hash that it claims.
fn split_line(line: &[u8]) -> Option<(&[u8], &str)> {
    // ,"hash":"<64 hex digits>"}
    let body_len = line.len().checked_sub(9 + 64 + 2)?;
    let (body, tail) = line.split_at(body_len);
    let hash = std::str::from_utf8(tail.strip_prefix(br#","hash":""#)?.strip_suffix(br#""}"#)?).ok()?;
    Some((body, hash))
}
