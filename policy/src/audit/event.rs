//! What a daemon records about one decision.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::text::escape_capped;

/// Maximum length of `path`, `reason`, `hint` and `answer`, in characters after escaping; other
/// fields are shorter. A longer text is cut and ends in `…`.
pub const MAX_FIELD_CHARS: usize = 512;

/// Maximum number of findings, and of refs, in one line.
pub const MAX_FINDINGS: usize = 8;

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditVerdict {
    /// The request was let through.
    Allow,
    /// The request was stopped.
    Deny,
}

/// What a daemon records about one decision. Texts may come from the guest: the writer caps and
/// escapes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Name of the daemon, such as `egress`.
    pub daemon: String,
    /// What happened: `admitted`, `request`, `refused`, `recovered`, `suppressed`, `spent`,
    /// `policy`.
    pub event: String,
    /// The decision.
    pub verdict: AuditVerdict,
    /// In a closing line: `seq` of the `admitted` line that it closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<u64>,
    /// Stable name of the rule that denied the request, or of what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The same in one line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In a denial: what would allow the request, such as a route; one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Findings of the scanner: rule, place and a sample without the secret part; at most
    /// [`MAX_FINDINGS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Requested host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Requested TCP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Normalised path, without the query, which may hold secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Length of the query in bytes, without the `?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_bytes: Option<u64>,
    /// Name of the route that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// HTTP status that the guest got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Body bytes from the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// Body bytes to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    /// Milliseconds from the head of the request to the end of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// In a push: each ref with its old and its new id; at most [`MAX_FINDINGS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<String>,
    /// In a push: number of new objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// In a push: answer of the upstream, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

impl AuditEvent {
    /// An event whose optional fields are empty.
    #[must_use]
    pub fn new(daemon: &str, event: &str, verdict: AuditVerdict) -> Self {
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

    /// The event with every text capped and escaped.
    pub(super) fn cleaned(mut self) -> Self {
        for text in [&mut self.daemon, &mut self.event] {
            clean(text, 64);
        }
        let optional = [
            (&mut self.rule, 64),
            (&mut self.reason, MAX_FIELD_CHARS),
            (&mut self.hint, MAX_FIELD_CHARS),
            (&mut self.method, 32),
            (&mut self.host, 255),
            (&mut self.path, MAX_FIELD_CHARS),
            (&mut self.route, 128),
            (&mut self.answer, MAX_FIELD_CHARS),
        ];
        for (text, cap) in optional {
            if let Some(text) = text {
                clean(text, cap);
            }
        }
        self.refs.truncate(MAX_FINDINGS);
        for line in &mut self.refs {
            clean(line, 255);
        }
        self.findings.truncate(MAX_FINDINGS);
        for finding in &mut self.findings {
            clean(finding, 160);
        }
        self
    }
}

/// Escapes `text` in place and cuts it to `max_chars` characters and a `…`.
fn clean(text: &mut String, max_chars: usize) {
    if let Cow::Owned(escaped) = escape_capped(text, max_chars) {
        *text = escaped;
    }
}
