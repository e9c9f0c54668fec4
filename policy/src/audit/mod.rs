//! The audit log: one JSON object a line, each line chained to the previous one by SHA-256.
//!
//! `hash` is the last member of every line. It is SHA-256 (lower hex) over the text of `prev`
//! followed by the line's bytes up to, but without, `,"hash":"…"}`. To verify a line, nothing is
//! parsed and written again, so there is no canonical JSON to agree on, and every flipped byte is
//! found. `prev` of the first line is 64 zeros. A chain cannot show that lines were cut off its
//! end: keep [`AuditSummary::last_hash`] elsewhere to detect that.
//!
//! A request that is let through has two lines: `admitted`, written before its first byte leaves,
//! and a closing one (`request`, or `refused` when it was stopped half-way), whose `admitted` is
//! the number of the first. A request that is refused at once has one line. A writer keeps within
//! [`Bounds`]: when refusals come too fast, a line `suppressed` counts them instead; a run that has
//! used up its bytes writes `spent`, and after that only the closing lines of admitted requests.

mod bounds;
mod chain;
mod event;
mod verify;
mod writer;

pub use bounds::Bounds;
pub use chain::{AuditRecord, GENESIS};
pub use event::{AuditEvent, AuditVerdict, MAX_FIELD_CHARS, MAX_FINDINGS};
pub use verify::{AuditSummary, ChainError, verify};
pub use writer::{AuditError, AuditWriter, Line};
