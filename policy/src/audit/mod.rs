//! The audit log: one JSON object a line, each line chained to the one before by SHA-256.
//!
//! `hash` is the last member of every line. It is SHA-256 (lower hex) over the text of `prev`
//! followed by the line's bytes up to, and without, `,"hash":"…"}`. Nothing is parsed and written
//! again to verify a line, so no question of canonical JSON arises and every flipped byte shows.
//! The first line's `prev` is 64 zeros. What a chain cannot show is that lines were cut off its
//! end: keep [`Verified::last_hash`] elsewhere to detect that.
//!
//! What is let through has two lines: `admitted`, written before its first byte goes on, and a
//! closing one (`request`, or `refused` when it was stopped half-way) that names the first by
//! `admitted`. What is refused at once has one. A writer keeps to [`Bounds`]: too many refusals are
//! counted in a line `suppressed` instead, and a run that has spent its bytes writes `spent`, then
//! only the closing lines of what it had admitted.

mod bounds;
mod verify;
mod writer;

pub use bounds::Bounds;
pub use verify::{AuditBroken, Verified, verify};
pub use writer::{AuditError, AuditWriter, Line};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest text that a field keeps, in characters after escaping; what is longer ends in `…`. This
/// is for `path` and `reason`; the others are shorter.
pub const FIELD_CAP: usize = 512;

/// Most findings that a line keeps.
pub const FINDINGS_CAP: usize = 8;

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

/// What a daemon says about one decision. Texts may come from the guest: the writer caps them and
/// escapes controls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Daemon that writes, such as `egress`.
    pub daemon: String,
    /// What happened: `admitted`, `request`, `refused`, `recovered`, `suppressed`, `spent`,
    /// `policy`.
    pub event: String,
    /// The decision.
    pub verdict: Verdict,
    /// Of a closing line: `seq` of the `admitted` line that it closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<u64>,
    /// Stable name of the rule that decided against, or of what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The same for people, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a denial: the route that would allow it, or what else would, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What the scanner found: rule, place and a sample without the secret part, at most
    /// [`FINDINGS_CAP`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
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
    /// Of a push: each ref with its old and its new id, at most [`FINDINGS_CAP`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<String>,
    /// Of a push: how many objects are new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// Of a push: what the upstream said to it, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

impl AuditEvent {
    /// An event with nothing but its kind.
    #[must_use]
    pub fn new(daemon: &str, event: &str, verdict: Verdict) -> Self {
        Self {
            daemon: daemon.to_owned(),
            event: event.to_owned(),
            verdict,
            admitted: None,
            rule: None,
            reason: None,
            hint: None,
            findings: Vec::new(),
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
            refs: Vec::new(),
            objects: None,
            answer: None,
        }
    }

    /// The event with every text capped and without characters that a terminal or another tool
    /// would act on.
    pub(crate) fn cleaned(mut self) -> Self {
        for text in [&mut self.daemon, &mut self.event] {
            clean(text, 64);
        }
        let optional = [
            (&mut self.rule, 64),
            (&mut self.reason, FIELD_CAP),
            (&mut self.hint, FIELD_CAP),
            (&mut self.method, 32),
            (&mut self.host, 255),
            (&mut self.path, FIELD_CAP),
            (&mut self.route, 128),
            (&mut self.answer, FIELD_CAP),
        ];
        for (text, cap) in optional {
            if let Some(text) = text {
                clean(text, cap);
            }
        }
        self.refs.truncate(FINDINGS_CAP);
        for line in &mut self.refs {
            clean(line, 255);
        }
        self.findings.truncate(FINDINGS_CAP);
        for finding in &mut self.findings {
            clean(finding, 160);
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

/// Leaves of `text` at most `cap` characters and a `…`, with control, format and line-separator
/// characters as `\u{…}`.
fn clean(text: &mut String, cap: usize) {
    if text.len() <= cap && text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return; // as nearly all are
    }
    let mut out = String::with_capacity(text.len().min(cap));
    let mut left = cap;
    for c in text.chars() {
        // Bidirectional and zero-width characters can make a line look like another in a terminal.
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        let escape = c.is_control() || hidden;
        let Some(rest) = left.checked_sub(if escape { c.escape_unicode().count() } else { 1 })
        else {
            out.push('…');
            break;
        };
        left = rest;
        if escape {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    *text = out;
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
    let hash =
        std::str::from_utf8(tail.strip_prefix(br#","hash":""#)?.strip_suffix(br#""}"#)?).ok()?;
    Some((body, hash))
}
