//! The audit lines of one fetch or push: one before anything is passed on, one at its end, exactly
//! once.

use std::sync::Arc;
use std::time::Instant;

use bottle_policy::audit::{AuditError, AuditEvent, AuditVerdict, AuditWriter, Line};
use bottle_scan::{Direction, Profile};
use tokio::sync::OwnedSemaphorePermit;

use super::commands::Command;
use super::refusal::{Refusal, Rule};

/// Name of the daemon in audit lines.
pub const DAEMON: &str = "git-gate";

/// The lines-to-be of one request. Dropped before its end, it says that the bottle went away.
pub struct Ticket {
    log: Arc<AuditWriter>,
    secrets: Profile,
    /// What will be written.
    pub event: AuditEvent,
    started: Instant,
    done: bool,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Ticket {
    /// Starts the clock. Nothing in which `secrets` finds one is written down.
    pub fn new(
        log: Arc<AuditWriter>,
        secrets: Profile,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let event = AuditEvent::new(DAEMON, "request", AuditVerdict::Allow);
        Self { log, secrets, event, started: Instant::now(), done: false, _slot: slot }
    }

    /// Says what is to become of which refs.
    pub fn refs(&mut self, commands: &[Command]) {
        self.event.refs = commands
            .iter()
            .map(|c| format!("{} {} {}", c.name, c.old.short(), c.new.short()))
            .collect();
    }

    /// Counts what came from the guest.
    pub fn up(&mut self, bytes: u64) {
        self.event.bytes_up = Some(bytes);
    }

    /// Counts what went to the guest.
    pub fn down(&mut self, bytes: u64) {
        *self.event.bytes_down.get_or_insert(0) += bytes;
    }

    /// Records that it is let through. Nothing may be passed on before.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn admit(&mut self) -> Result<(), Refusal> {
        self.withhold();
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

    /// The end of one that was done.
    pub fn finish(&mut self) {
        self.write();
    }

    /// The end of one that was not.
    pub fn fail(&mut self, refusal: &Refusal) {
        if refusal.rule.is_denial() {
            self.event.event = "refused".to_owned();
            self.event.verdict = AuditVerdict::Deny;
        }
        self.event.rule = Some(refusal.rule.code().to_owned());
        self.event.reason = Some(refusal.reason.clone());
        self.event.hint.clone_from(&refusal.hint);
        self.event.findings.clone_from(&refusal.findings);
        self.write();
    }

    fn write(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        self.withhold();
        let mut event = self.event.clone();
        event.ms = Some(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let line = if event.admitted.is_some() { Line::Closing } else { Line::Refusal };
        if let Err(e) = self.log.append(line, event) {
            complain(&e);
        }
    }

    /// Leaves out every text that holds a credential: what must not be sent must not be left in the
    /// log.
    fn withhold(&mut self) {
        let event = &mut self.event;
        let texts = [
            &mut event.method,
            &mut event.path,
            &mut event.reason,
            &mut event.hint,
            &mut event.answer,
        ];
        for text in texts.into_iter().flatten().chain(&mut event.refs).chain(&mut event.findings) {
            if !self.secrets.text(Direction::Request, text.as_bytes()).is_empty() {
                "(withheld: it holds what looks like a credential)".clone_into(text);
            }
        }
    }
}

/// Says why nothing is accepted any more.
fn complain(e: &AuditError) {
    if !matches!(e, AuditError::Closed(_)) {
        tracing::error!("{e}; no request is accepted any more");
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            self.fail(&Refusal::new(
                Rule::Aborted,
                "cut off before the end, by the bottle or at teardown",
            ));
        }
    }
}
