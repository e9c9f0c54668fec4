//! The audit lines of one request: one before anything of it leaves, and one at its end, exactly
//! once, whatever happens to it. Killed at any moment, the daemon has let nothing out that is not
//! in the log.

use std::sync::Arc;
use std::time::Instant;

use bottle_policy::audit::{AuditError, AuditEvent, AuditVerdict, AuditWriter, Line};
use bottle_scan::{Direction, Profile};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::authority::Authority;
use super::body::Meter;
use super::refusal::{Refusal, Rule};

const DAEMON: &str = "egress";

/// The lines-to-be of one request. Dropped before its end, it says that the bottle went away, or
/// that the daemon did.
pub struct Ticket {
    log: Arc<AuditWriter>,
    secrets: Profile,
    cut: watch::Receiver<bool>,
    event: AuditEvent,
    started: Instant,
    meter: Arc<Meter>,
    done: bool,
    slots: Vec<OwnedSemaphorePermit>,
}

impl Ticket {
    /// Starts the clock. Nothing in which `secrets` finds one is written down. `cut` is true once
    /// the daemon ends open requests.
    pub fn new(log: Arc<AuditWriter>, secrets: Profile, cut: watch::Receiver<bool>) -> Self {
        let event = AuditEvent::new(DAEMON, "request", AuditVerdict::Allow);
        Self {
            log,
            secrets,
            cut,
            event,
            started: Instant::now(),
            meter: Arc::default(),
            done: false,
            slots: Vec::new(),
        }
    }

    /// Takes its place among the requests that are on their way, until its end.
    pub fn takes(&mut self, slot: Option<OwnedSemaphorePermit>) {
        self.slots.extend(slot);
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

    /// Records that the request is let through. Nothing of it may leave, not even a lookup of its
    /// host, before.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn admit(&mut self) -> Result<(), Refusal> {
        withhold(&mut self.event, &self.secrets);
        let event = AuditEvent { event: "admitted".to_owned(), ..self.event.clone() };
        match self.log.append(Line::Opening, event) {
            Ok(seq) => {
                self.event.admitted = seq;
                Ok(())
            }
            Err(e) => {
                complain(&e);
                Err(Refusal::unrecorded())
            }
        }
    }

    /// The end of a request that got its answer.
    pub fn finish(&mut self) {
        self.write();
    }

    /// The end of a request that did not, or not all of it.
    pub fn fail(&mut self, refusal: &Refusal) {
        if refusal.rule.is_denial() {
            self.event.event = "refused".to_owned();
            self.event.verdict = AuditVerdict::Deny;
        }
        self.event.rule = Some(refusal.rule.code().to_owned());
        self.event.reason = Some(refusal.reason.clone());
        self.event.hint.clone_from(&refusal.hint);
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
        if event.admitted.is_none() || event.reason.is_some() {
            withhold(&mut event, &self.secrets);
        }
        event.findings = self.meter.findings();
        event.bytes_up = Some(self.meter.up());
        event.bytes_down = Some(self.meter.down());
        event.ms = Some(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let line = if event.admitted.is_some() { Line::Closing } else { Line::Refusal };
        if let Err(e) = self.log.append(line, event) {
            complain(&e);
        }
        self.meter.close();
        self.slots.clear();
    }
}

/// Leaves out every text of the guest's that holds a credential: what it must not send, it must not
/// leave in the log.
fn withhold(event: &mut AuditEvent, secrets: &Profile) {
    let texts =
        [&mut event.method, &mut event.host, &mut event.path, &mut event.reason, &mut event.hint];
    for text in texts.into_iter().flatten() {
        if !secrets.text(Direction::Request, text.as_bytes()).is_empty() {
            *text = "(withheld: it holds what looks like a credential)".to_owned();
        }
    }
}

/// Says once why nothing is accepted any more: this log has no bounds of its own.
fn complain(e: &AuditError) {
    if !matches!(e, AuditError::Closed(_)) {
        tracing::error!("{e}; no request is accepted any more");
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            let why = if *self.cut.borrow() {
                "cut off at teardown"
            } else {
                "the bottle closed the connection before the end"
            };
            self.fail(&Refusal::new(Rule::Aborted, why));
        }
    }
}
