//! The audit lines of one fetch or push.

use std::sync::Arc;

use bottle_policy::audit::{AuditEvent, AuditWriter};
use bottle_scan::Profile;
use tokio::sync::OwnedSemaphorePermit;

use super::refusal::Rule;
use crate::daemon::audit_entry::{self, Closing};

/// Name of the daemon in audit lines.
pub const DAEMON: &str = "git-gate";

/// The audit lines of one request.
pub type RequestAudit = audit_entry::RequestAudit<Counters>;

/// What the closing line counts.
#[derive(Debug, Default)]
pub struct Counters {
    up: Option<u64>,
    down: Option<u64>,
}

impl Closing for Counters {
    type Rule = Rule;
    const DAEMON: &'static str = DAEMON;

    fn fill(&self, event: &mut AuditEvent) {
        (event.bytes_up, event.bytes_down) = (self.up, self.down);
    }

    fn aborted(&self) -> &'static str {
        "cut off before the end, by the bottle or at teardown"
    }
}

impl RequestAudit {
    /// Starts the clock. A text in which `secrets` finds a credential is not written to the log.
    /// `slot` is the request's place among those in progress.
    pub fn start(
        log: Arc<AuditWriter>,
        secrets: Profile,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let mut this = Self::new(log, secrets, Counters::default());
        this.hold(slot);
        this
    }

    /// Sets the count of bytes from the guest.
    pub fn up(&mut self, bytes: u64) {
        self.closing.up = Some(bytes);
    }

    /// Adds to the count of bytes to the guest.
    pub fn down(&mut self, bytes: u64) {
        *self.closing.down.get_or_insert(0) += bytes;
    }
}
