//! The audit lines of one fetch or push: one before anything is passed on, and exactly one at the
//! end.

use std::sync::Arc;
use std::time::Instant;

use bottle_policy::audit::{AuditError, AuditEvent, AuditWriter, Line, Verdict};
use bottle_scan::{Direction, Profile};
use tokio::sync::OwnedSemaphorePermit;

use crate::git_gate::refusal::{Refusal, Rule};

/// Name of the daemon in audit lines.
pub const DAEMON: &str = "git-gate";

/// Writes the audit lines of one request. If it is dropped early, it records that the request was
/// cut off.
pub struct RequestAudit {
    log: Arc<AuditWriter>,
    secrets: Profile,
    /// The fields of the line that will be written.
    pub event: AuditEvent,
    started: Instant,
    done: bool,
    _slot: Option<OwnedSemaphorePermit>,
}

impl RequestAudit {
    /// Starts the clock. Text in which `secrets` finds something is withheld from the log. `slot`
    /// is released at the end of the request.
    pub fn new(
        log: Arc<AuditWriter>,
        secrets: Profile,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let event = AuditEvent::new(DAEMON, "request", Verdict::Allow);
        Self { log, secrets, event, started: Instant::now(), done: false, _slot: slot }
    }

    /// Sets the count of bytes from the guest.
    pub fn up(&mut self, bytes: u64) {
        self.event.bytes_up = Some(bytes);
    }

    /// Adds to the count of bytes to the guest.
    pub fn down(&mut self, bytes: u64) {
        *self.event.bytes_down.get_or_insert(0) += bytes;
    }

    /// Records that the request is let through. Nothing may be passed on before this returns.
    ///
    /// # Errors
    /// [`Rule::Audit`]: the line cannot be written.
    pub fn admit(&mut self) -> Result<(), Refusal> {
        self.withhold();
        let event = AuditEvent { event: "admitted".to_owned(), ..self.event.clone() };
        match self.log.append(Line::Opening, event) {
            Ok(seq) => {
                self.event.admitted = seq;
                Ok(())
            }
            Err(e) => {
                log_audit_error(&e);
                Err(Refusal::unrecorded())
            }
        }
    }

    /// Records the end of a request that succeeded.
    pub fn finish(&mut self) {
        self.write();
    }

    /// Records the end of a request that was refused or failed.
    pub fn fail(&mut self, refusal: &Refusal) {
        if refusal.rule.is_denial() {
            self.event.event = "refused".to_owned();
            self.event.verdict = Verdict::Deny;
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
            log_audit_error(&e);
        }
    }

    /// Replaces every text that contains a credential: a secret that must not be sent must not be
    /// left in the log either.
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

/// Logs why no more requests are accepted.
fn log_audit_error(e: &AuditError) {
    if !matches!(e, AuditError::Closed(_)) {
        tracing::error!("{e}; no request is accepted any more");
    }
}

impl Drop for RequestAudit {
    fn drop(&mut self) {
        if !self.done {
            self.fail(&Refusal::new(
                Rule::Aborted,
                "cut off before the end, by the bottle or at teardown",
            ));
        }
    }
}
