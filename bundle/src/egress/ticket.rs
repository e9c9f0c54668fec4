//! One request, one audit line: whatever happens to the request, its ticket writes the line exactly once.

use std::sync::Arc;
use std::time::Instant;

use bottle_policy::audit::{AuditEvent, AuditWriter, Verdict};

use super::authority::Authority;
use super::body::Meter;
use super::refusal::{Refusal, Rule};

const DAEMON: &str = "egress";

/// The line-to-be of one request. Dropped before its end, it says that the bottle went away.
pub struct Ticket {
    log: Arc<AuditWriter>,
    event: AuditEvent,
    started: Instant,
    meter: Arc<Meter>,
    done: bool,
}

impl Ticket {
    /// Starts the clock.
    pub fn new(log: Arc<AuditWriter>) -> Self {
        let event = AuditEvent::new(DAEMON, "request", Verdict::Allow);
        Self { log, event, started: Instant::now(), meter: Arc::default(), done: false }
    }

    /// Where the request goes.
    pub fn to(&mut self, to: &Authority) {
        (self.event.host, self.event.port) = (Some(to.host.clone()), Some(to.port));
    }

    /// What it asks.
    pub fn asks(&mut self, method: &str, path: Option<&str>, query: Option<&str>) {
        self.event.method = Some(method.to_owned());
        self.event.path = path.map(str::to_owned);
        self.event.query_bytes = query.map(|q| q.len() as u64);
    }

    /// Which route let it through.
    pub fn route(&mut self, name: &str) {
        self.event.route = Some(name.to_owned());
    }

    /// What the guest is answered.
    pub fn status(&mut self, status: u16) {
        self.event.status = Some(status);
    }

    /// Its counters.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The end of a request that got its answer.
    pub fn finish(&mut self) {
        self.write();
    }

    /// The end of a request that did not, or not all of it.
    pub fn fail(&mut self, refusal: &Refusal) {
        if refusal.rule.is_denial() {
            self.event.event = "refused".to_owned();
            self.event.verdict = Verdict::Deny;
        }
        self.event.rule = Some(refusal.rule.code().to_owned());
        self.event.reason = Some(refusal.reason.clone());
        self.write();
    }

    /// No line: the requests inside a tunnel have their own.
    pub fn forget(&mut self) {
        self.done = true;
    }

    fn write(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let mut event = self.event.clone();
        event.bytes_up = Some(self.meter.up());
        event.bytes_down = Some(self.meter.down());
        event.ms = Some(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        if let Err(e) = self.log.append(event) {
            tracing::error!("{e}; no request is accepted any more");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            self.fail(&Refusal::new(Rule::Aborted, "the bottle closed the connection before the end"));
        }
    }
}
