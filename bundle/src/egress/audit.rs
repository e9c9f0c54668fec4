//! The audit lines of one request, tunnel or WebSocket.

use std::sync::Arc;

use bottle_policy::audit::{AuditEvent, AuditWriter};
use bottle_scan::Profile;
use tokio::sync::watch;

use super::meter::Meter;
use super::refusal::Rule;
use crate::daemon::audit_entry::{self, Closing};

/// Name of the daemon in audit lines.
pub const DAEMON: &str = "egress";

/// The audit lines of one request.
pub type RequestAudit = audit_entry::RequestAudit<Counters>;

/// What the closing line counts.
pub struct Counters {
    meter: Arc<Meter>,
    cut_off: watch::Receiver<bool>,
}

impl Closing for Counters {
    type Rule = Rule;
    const DAEMON: &'static str = DAEMON;

    fn fill(&self, event: &mut AuditEvent) {
        event.findings = self.meter.findings();
        event.bytes_up = Some(self.meter.up());
        event.bytes_down = Some(self.meter.down());
    }

    fn aborted(&self) -> &'static str {
        if *self.cut_off.borrow() {
            "cut off at teardown"
        } else {
            "the bottle closed the connection before the end"
        }
    }

    fn closed(&self) {
        self.meter.close();
    }
}

impl RequestAudit {
    /// Starts the clock. A text in which `secrets` finds a credential is not written to the log.
    /// `cut_off` becomes true when the daemon ends the requests that are still open.
    pub fn start(log: Arc<AuditWriter>, secrets: Profile, cut_off: watch::Receiver<bool>) -> Self {
        Self::new(log, secrets, Counters { meter: Arc::default(), cut_off })
    }

    /// Sets where the request goes.
    pub fn set_destination(&mut self, host: &str, port: u16) {
        let event = self.event();
        (event.host, event.port) = (Some(host.to_owned()), Some(port));
    }

    /// Sets what the request asks for. Of the query only the length is recorded.
    pub fn set_request(&mut self, method: &str, path: Option<&str>, query: Option<&str>) {
        let event = self.event();
        event.method = Some(method.to_owned());
        event.path = path.map(str::to_owned);
        event.query_bytes = query.map(|q| q.len() as u64);
    }

    /// Sets the route that let the request through.
    pub fn set_route(&mut self, name: &str) {
        self.event().route = Some(name.to_owned());
    }

    /// The request's counters.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.closing.meter
    }
}
