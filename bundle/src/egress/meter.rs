//! What one request has carried and what was found in it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use bottle_policy::Action;
use bottle_policy::audit::MAX_FINDINGS;
use bottle_scan::Finding;
use tokio::time::Instant;

use super::refusal::{Checks, Refusal, Rule};

/// Counters and findings of one request, shared by its two bodies and its audit lines.
#[derive(Debug)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
    started: Instant,
    touched: Mutex<Instant>,
    upload_refusal: OnceLock<Refusal>,
    findings: Mutex<Vec<String>>,
    closed: AtomicBool,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            started: Instant::now(),
            touched: Mutex::new(Instant::now()),
            upload_refusal: OnceLock::new(),
            findings: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }
}

impl Meter {
    /// Body bytes from the guest.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Body bytes to the guest.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Counts bytes from the guest.
    pub fn add_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Counts bytes to the guest.
    pub fn add_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When the request's head had arrived.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When the request's head or a part of either body last arrived.
    pub fn touched(&self) -> Instant {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the guest's body was refused, if it was.
    pub fn upload_refusal(&self) -> Option<Refusal> {
        self.upload_refusal.get().cloned()
    }

    /// What the scanner found, one line each, for the audit line.
    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records what was found in `part` of the request.
    ///
    /// # Errors
    /// The refusal, if one of the findings blocks.
    pub fn note(&self, part: &str, found: &[Finding], checks: &Checks) -> Result<(), Refusal> {
        if found.is_empty() {
            return Ok(());
        }
        let mut noted = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_FINDINGS.saturating_sub(noted.len());
        noted.extend(found.iter().take(room).map(|f| describe(part, f)));
        drop(noted);
        let Some(blocking) = found.iter().find(|f| f.action == Action::Block) else {
            return Ok(());
        };
        let coding = blocking.rule.starts_with("coding");
        let rule = if coding { Rule::Coding } else { Rule::Secret };
        let blocked = checks.refuse_if(true, rule, || match (&blocking.secret, coding) {
            (Some(name), _) => format!(
                "the {part} holds the value of {name}, which never leaves through the bottle"
            ),
            (None, true) => format!(
                "the {part} is coded in a way that cannot be looked into ({})",
                blocking.rule
            ),
            (None, false) => format!(
                "the {part} holds what looks like a credential ({}, {})",
                blocking.rule, blocking.sample
            ),
        });
        let hint = || {
            format!(
                "if it is none, in bottle.toml, in the route: scan = {{ rules = {{ \"{}\" = \"warn\" }} }}",
                blocking.rule
            )
        };
        blocked.map_err(|r| if blocking.secret.is_some() { r } else { r.hint(hint()) })
    }

    /// Marks that the request has its closing audit line: nothing of it may leave any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether the request has its closing audit line.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Records why the guest's body is refused; returns the error that ends it.
    pub fn refuse_upload(&self, refusal: Refusal) -> io::Error {
        let _ = self.upload_refusal.set(refusal.clone());
        io::Error::other(refusal)
    }
}

fn describe(part: &str, f: &Finding) -> String {
    let action = match f.action {
        Action::Off | Action::Warn => "warn",
        Action::Redact => "redact",
        Action::Block => "block",
    };
    let who = f.secret.as_ref().map_or_else(|| f.sample.clone(), |name| format!("value of {name}"));
    format!("{action} {} in {part} at {}: {who}", f.rule, f.offset)
}
