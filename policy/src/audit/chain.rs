//! One line of the log, and how lines are chained.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::event::AuditEvent;

/// `prev` of the first line.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Format version, 1.
    pub v: u32,
    /// Line number, from 1.
    pub seq: u64,
    /// UTC, RFC 3339, with milliseconds.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub what: AuditEvent,
    /// `hash` of the previous line.
    pub prev: String,
    /// Hash of this line; [`crate::audit`] describes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// Hash of a line whose bytes before `,"hash":` are `body`.
pub(super) fn line_hash(prev: &str, body: &[u8]) -> String {
    let mut h = Sha256::new();
    h.update(prev.as_bytes());
    h.update(body);
    hex::encode(h.finalize())
}

/// Splits a line (without its newline) into the hashed bytes and the hash that it states.
pub(super) fn split_line(line: &[u8]) -> Option<(&[u8], &str)> {
    // ,"hash":"<64 hex digits>"}
    let body_len = line.len().checked_sub(9 + 64 + 2)?;
    let (body, tail) = line.split_at(body_len);
    let hash =
        std::str::from_utf8(tail.strip_prefix(br#","hash":""#)?.strip_suffix(br#""}"#)?).ok()?;
    Some((body, hash))
}
