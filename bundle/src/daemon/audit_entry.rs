//! The audit lines of one request: an opening line before anything of it leaves, and a closing line
//! at its end, exactly once, whatever happens to it. A daemon that is killed at any moment has let
//! nothing out that is not in the log.

use std::sync::Arc;
use std::time::Instant;

use bottle_policy::audit::{AuditError, AuditEvent, AuditVerdict, AuditWriter, Line};
use bottle_scan::{Direction, Profile};
use tokio::sync::OwnedSemaphorePermit;

use super::refusal::{Refusal, RefusalRule};

/// Stands in the log for a text that holds a credential.
const WITHHELD: &str = "(withheld: it holds what looks like a credential)";

/// What one daemon adds to the closing line of a request.
pub trait Closing {
    /// The daemon's rules.
    type Rule: RefusalRule;
    /// The daemon's name in audit lines.
    const DAEMON: &'static str;

    /// Fills in what is known only at the end. Nothing written here may hold a credential.
    fn fill(&self, _event: &mut AuditEvent) {}

    /// Why a request that was dropped has not come to its end.
    fn aborted(&self) -> &'static str;

    /// Called after the closing line was written.
    fn closed(&self) {}
}

/// The audit lines of one request. Dropped before [`Self::finish`] or [`Self::fail`], it writes
/// that the request was aborted.
pub struct RequestAudit<C: Closing> {
    log: Arc<AuditWriter>,
    secrets: Profile,
    event: AuditEvent,
    /// Whether `secrets` has searched the texts of `event` since the last change.
    searched: bool,
    started: Instant,
    written: bool,
    slots: Vec<OwnedSemaphorePermit>,
    /// What the daemon adds at the end.
    pub closing: C,
}

impl<C: Closing> RequestAudit<C> {
    /// Starts the clock. A text in which `secrets` finds a credential is not written to the log.
    pub fn new(log: Arc<AuditWriter>, secrets: Profile, closing: C) -> Self {
        Self {
            log,
            secrets,
            event: AuditEvent::new(C::DAEMON, "request", AuditVerdict::Allow),
            searched: false,
            started: Instant::now(),
            written: false,
            slots: Vec::new(),
            closing,
        }
    }

    /// Holds `slot`, a place among the requests in progress, until the closing line is written.
    pub fn hold(&mut self, slot: Option<OwnedSemaphorePermit>) {
        self.slots.extend(slot);
    }

    /// The line to be written, for changes of its texts.
    pub fn event(&mut self) -> &mut AuditEvent {
        self.searched = false;
        &mut self.event
    }

    /// Sets the HTTP status that the guest gets.
    pub fn set_status(&mut self, status: u16) {
        self.event.status = Some(status);
    }

    /// Writes the opening line. Nothing of the request may leave before, not even a lookup of its
    /// host's name.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn admit(&mut self) -> Result<(), Refusal<C::Rule>> {
        self.withhold();
        let event = AuditEvent { event: "admitted".to_owned(), ..self.event.clone() };
        match self.log.append(Line::Opening, event) {
            Ok(seq) => {
                self.event.admitted = seq;
                Ok(())
            }
            Err(e) => {
                log_failure(&e);
                Err(Refusal::unrecorded())
            }
        }
    }

    /// Writes the closing line of a request that got its answer.
    pub fn finish(&mut self) {
        self.close();
    }

    /// Writes the closing line of a request that got no answer, or not all of it.
    pub fn fail(&mut self, refusal: &Refusal<C::Rule>) {
        self.set_refusal(refusal.rule, &refusal.reason);
        self.event.hint.clone_from(&refusal.hint);
        self.event.findings.clone_from(&refusal.findings);
        self.close();
    }

    /// Writes no line at all, such as for a tunnel in which each request has lines of its own.
    pub fn discard(&mut self) {
        self.written = true;
    }

    fn set_refusal(&mut self, rule: C::Rule, reason: &str) {
        if rule.is_denial() {
            "refused".clone_into(&mut self.event.event);
            self.event.verdict = AuditVerdict::Deny;
        }
        self.event.rule = Some(rule.code().to_owned());
        self.event.reason = Some(reason.to_owned());
        self.searched = false;
    }

    fn close(&mut self) {
        if std::mem::replace(&mut self.written, true) {
            return;
        }
        self.withhold();
        let mut event = self.event.clone();
        event.ms = Some(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.closing.fill(&mut event);
        let line = if event.admitted.is_some() { Line::Closing } else { Line::Refusal };
        if let Err(e) = self.log.append(line, event) {
            log_failure(&e);
        }
        self.closing.closed();
        self.slots.clear();
    }

    /// Replaces each text that holds a credential: what the guest must not send must not stay in
    /// the log either.
    fn withhold(&mut self) {
        if std::mem::replace(&mut self.searched, true) {
            return;
        }
        let event = &mut self.event;
        let texts = [
            &mut event.method,
            &mut event.host,
            &mut event.path,
            &mut event.answer,
            &mut event.reason,
            &mut event.hint,
        ];
        for text in texts.into_iter().flatten().chain(&mut event.refs).chain(&mut event.findings) {
            if !self.secrets.text(Direction::Request, text.as_bytes()).is_empty() {
                WITHHELD.clone_into(text);
            }
        }
    }
}

impl<C: Closing> Drop for RequestAudit<C> {
    fn drop(&mut self) {
        if !self.written {
            self.set_refusal(C::Rule::ABORTED, self.closing.aborted());
            self.close();
        }
    }
}

/// Logs once why no request is accepted any more; the daemon's own log has no limit.
fn log_failure(e: &AuditError) {
    if !matches!(e, AuditError::Closed(_)) {
        tracing::error!("{e}; no request is accepted any more");
    }
}
