//! What all connections share.

use std::sync::Arc;

use bottle_policy::audit::AuditWriter;
use bottle_scan::Profile;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use super::audit::RequestAudit;
use super::meter::Meter;
use super::policy::live::LivePolicy;
use super::refusal::{Checks, Refusal, Rule};
use super::route::rules::{RouteRules, TimeLimit};
use super::tls::LeafCertificates;
use super::upstream::network::Network;

/// The state of the daemon.
pub struct Shared {
    /// The policy in force.
    pub policy: Arc<LivePolicy>,
    /// Certificates for intercepted hosts.
    pub certificates: LeafCertificates,
    /// The audit log.
    pub log: Arc<AuditWriter>,
    /// Name lookup, limits, enabled rules.
    pub network: Arc<Network>,
    /// Every connection, tunnel and WebSocket that is open.
    pub tasks: TaskTracker,
    /// Places for [`super::limits::Limits::requests`].
    pub requests: Arc<Semaphore>,
    /// Becomes true when the daemon has to end.
    pub ending: watch::Receiver<bool>,
    /// Set to true when open requests have had their time to end.
    pub cut: watch::Sender<bool>,
}

impl Shared {
    /// The rules that are enabled.
    pub fn checks(&self) -> &Checks {
        &self.network.checks
    }

    /// Starts the audit lines of a request.
    pub fn start_audit(&self) -> RequestAudit {
        RequestAudit::start(self.log.clone(), self.policy.now().secrets(), self.cut.subscribe())
    }

    /// Waits for a place among the requests in progress.
    pub async fn request_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.requests.clone().acquire_owned().await.ok()
    }

    /// What is searched for in answers on a route: all secrets known now, not only those from when
    /// the request began.
    pub fn profile(&self, rules: &RouteRules) -> Profile {
        self.policy.now().profile(&rules.route.name).unwrap_or_else(|| rules.profile.clone())
    }

    /// Completes when `meter` has counted nothing for the route's idle time, or a tunnel has reached
    /// its total time.
    pub async fn timed_out(&self, meter: &Meter, rules: &RouteRules) -> Refusal {
        let times = self.network.limits.times(&rules.route.timeout);
        let deadline = Instant::now() + times.total;
        loop {
            sleep_until((meter.touched() + times.idle).min(deadline)).await;
            if Instant::now() >= deadline {
                return rules.timed_out(TimeLimit::Total, times);
            }
            if meter.touched() + times.idle <= Instant::now() {
                return rules.timed_out(TimeLimit::Idle, times);
            }
        }
    }

    /// Completes when connections that are still open have to be cut off.
    pub async fn cut_off(&self) -> Refusal {
        let _ = self.cut.subscribe().wait_for(|cut| *cut).await;
        Refusal::new(Rule::Aborted, "cut off at teardown")
    }
}
