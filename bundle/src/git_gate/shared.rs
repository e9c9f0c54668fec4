//! What all requests of one daemon share.

use std::sync::Arc;
use std::time::Duration;

use bottle_policy::audit::AuditWriter;
use bottle_scan::Profile;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::git_gate::refusal::Checks;
use crate::git_gate::scan::gitleaks::PrestartedGitleaks;

/// Bounds on what a guest can make the daemon hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from the guest at once; more wait.
    pub connections: usize,
    /// Fetches and pushes in progress at once; more wait.
    pub requests: usize,
    /// Time for the head of a request, and for a connection without a request.
    pub head: Duration,
    /// Time without a byte inside the body of a request.
    pub idle: Duration,
    /// Largest decoded body of a fetch request, in bytes.
    pub fetch_bytes: u64,
    /// Time for open requests when the daemon ends.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            requests: 16,
            head: Duration::from_secs(60),
            idle: Duration::from_secs(120),
            fetch_bytes: 64 << 20,
            drain: Duration::from_secs(1),
        }
    }
}

/// What all requests share.
pub struct Shared {
    /// The audit log.
    pub log: Arc<AuditWriter>,
    /// Scans pushed objects. It reports every finding and does not stop at the first.
    pub objects: Profile,
    /// Finds secrets in text for the audit log.
    pub secrets: Profile,
    /// Bounds.
    pub limits: Limits,
    /// The enabled checks.
    pub checks: Checks,
    /// Connections and pushes in progress.
    pub tasks: TaskTracker,
    /// gitleaks, started before it is needed.
    pub gitleaks: Arc<PrestartedGitleaks>,
    /// One permit for each fetch or push in progress.
    pub requests: Arc<Semaphore>,
    /// True once the daemon is to end.
    pub ending: watch::Receiver<bool>,
}
