//! The policies in force in a running bottle. The orchestrator alone replaces a policy's file; the
//! daemon watches the file, and reports that the policy is in force or why it refuses it.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{
    Ask, GRANTED_ROUTE_PREFIX, GatePolicy, GateReport, Policy, PolicyTextError, ReloadReport,
};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::timeout;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::write_private;
use crate::host::process::ControlPipe;
use crate::plan::LaunchPlan;
use crate::provider::DEMO_HOST;
use crate::state::{BottleDir, Phase};

/// How long the daemon may take to confirm a policy, and another reload to end.
const DEADLINE: Duration = Duration::from_secs(2);
/// Largest policy file, bytes.
pub const MAX_POLICY_BYTES: usize = 4 << 20;

/// A policy that its daemon reloads while it runs.
pub trait Reloadable: Serialize + Sized {
    /// The daemon's name in messages.
    const DAEMON: &'static str;
    /// The policy's file in the bottle's runtime directory.
    const FILE: &'static str;

    /// Reads a policy file's text.
    ///
    /// # Errors
    /// Line, column and key.
    fn read(text: &[u8]) -> Result<Self, PolicyTextError>;

    /// The digest by which the daemon names it.
    fn identity(&self) -> String;

    /// The reloads of its daemon.
    fn reloads(switch: &PolicySwitch) -> &DaemonReloads;
}

impl Reloadable for Policy {
    const DAEMON: &'static str = "egress";
    const FILE: &'static str = "policy.json";

    fn read(text: &[u8]) -> Result<Self, PolicyTextError> {
        Self::from_json(text)
    }

    fn identity(&self) -> String {
        self.digest()
    }

    fn reloads(switch: &PolicySwitch) -> &DaemonReloads {
        &switch.egress
    }
}

impl Reloadable for GatePolicy {
    const DAEMON: &'static str = "git-gate";
    const FILE: &'static str = "git-policy.json";

    fn read(text: &[u8]) -> Result<Self, PolicyTextError> {
        Self::from_json(text)
    }

    fn identity(&self) -> String {
        self.digest()
    }

    fn reloads(switch: &PolicySwitch) -> &DaemonReloads {
        &switch.gate
    }
}

/// The policies of a bottle's daemons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivePolicies {
    /// The policy of egress.
    pub routes: Policy,
    /// The policy of git-gate, if the bottle has it.
    pub git: Option<GatePolicy>,
}

impl LivePolicies {
    /// Digest of the policy that `ask` would change.
    #[must_use]
    pub fn digest_for(&self, ask: &Ask) -> String {
        match (ask, &self.git) {
            (Ask::Ref { .. } | Ask::Finding { .. }, Some(git)) => git.digest(),
            _ => self.routes.digest(),
        }
    }

    /// Adds to `policy` what only the launch knows: routes that the operator granted, and the
    /// address of the demo's upstream.
    pub fn complete(&self, plan: &LaunchPlan, policy: &mut Policy) {
        let routes = &self.routes.routes;
        policy
            .routes
            .extend(routes.iter().filter(|r| r.name.starts_with(GRANTED_ROUTE_PREFIX)).cloned());
        if !plan.provider.needs_demo_upstream {
            return;
        }
        let Some(demo) = routes.iter().find(|r| r.host.as_str() == DEMO_HOST) else { return };
        for route in policy.routes.iter_mut().filter(|r| r.host.as_str() == DEMO_HOST) {
            route.connect = demo.connect;
            route.ca.clone_from(&demo.ca);
        }
    }
}

/// The policies in force in the running bottle `dir`.
///
/// # Errors
/// `Config` when they cannot be read: the bottle does not run.
pub fn in_force(dir: &BottleDir) -> Result<LivePolicies> {
    let routes = policy_of(dir)?;
    let has_git = policy_file::<GatePolicy>(dir).exists();
    let git = has_git.then(|| policy_of(dir)).transpose()?;
    Ok(LivePolicies { routes, git })
}

/// The policy of one daemon of the running bottle `dir`.
///
/// # Errors
/// As [`in_force`].
pub fn policy_of<P: Reloadable>(dir: &BottleDir) -> Result<P> {
    read_file(&policy_file::<P>(dir)).map(|(policy, _)| policy)
}

/// Checks that the bottle `dir` runs.
///
/// # Errors
/// `Usage` when it does not, or is still starting.
pub fn require_running(dir: &BottleDir) -> Result<()> {
    let running = dir.status().is_some_and(|s| s.alive && s.metadata.phase == Phase::Running);
    running.then_some(()).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("bottle {:?} is not running", dir.slug()))
            .hint("bottle list")
    })
}

fn policy_file<P: Reloadable>(dir: &BottleDir) -> Utf8PathBuf {
    dir.recorded_control_socket().with_file_name(P::FILE)
}

fn read_file<P: Reloadable>(file: &Utf8Path) -> Result<(P, Vec<u8>)> {
    let what = || format!("cannot read {file}");
    let mut bytes = Vec::new();
    File::open(file)
        .context(ErrorKind::Config, what)?
        .take(MAX_POLICY_BYTES as u64)
        .read_to_end(&mut bytes)
        .context(ErrorKind::Config, what)?;
    let policy = P::read(&bytes).context(ErrorKind::Config, what)?;
    Ok((policy, bytes))
}

/// The newest reload that a daemon reported.
pub type NewestReload = watch::Sender<Option<ReloadReport>>;

/// The reloads of one daemon.
#[derive(Debug, Default)]
pub struct DaemonReloads {
    newest: NewestReload,
    /// Held from the comparison of digests until the daemon has confirmed the new policy.
    turn: Arc<Mutex<()>>,
}

/// Replaces the policies of a running bottle. Its orchestrator has the only one.
#[derive(Debug)]
pub struct PolicySwitch {
    dir: BottleDir,
    egress: DaemonReloads,
    gate: DaemonReloads,
    deadline: Duration,
}

impl PolicySwitch {
    /// A switch for the bottle `dir`, whose daemons may start later.
    #[must_use]
    pub fn new(dir: &BottleDir) -> Self {
        Self {
            dir: dir.clone(),
            egress: DaemonReloads::default(),
            gate: DaemonReloads::default(),
            deadline: DEADLINE,
        }
    }

    /// Where the reader of a daemon's reports puts each reload.
    #[must_use]
    pub fn newest<P: Reloadable>(&self) -> NewestReload {
        P::reloads(self).newest.clone()
    }

    /// Reads the policy in force, and keeps other reloads of its daemon waiting.
    ///
    /// # Errors
    /// `Usage` when another reload is under way for 2 s, `Config` when the policy cannot be read.
    pub async fn lock<P: Reloadable>(&self) -> Result<LivePolicy<P>> {
        let reloads = P::reloads(self);
        let turn = timeout(self.deadline, Arc::clone(&reloads.turn).lock_owned());
        let turn = turn.await.map_err(|_| {
            Error::new(ErrorKind::Usage, "another reload of this bottle is under way")
        })?;
        let file = policy_file::<P>(&self.dir);
        let (policy, old) = read_file(&file)?;
        let reports = reloads.newest.subscribe();
        Ok(LivePolicy { file, old, policy, reports, deadline: self.deadline, _turn: turn })
    }

    /// Puts another policy in force, and waits until its daemon confirms that.
    ///
    /// # Errors
    /// As [`PolicySwitch::lock`] and [`LivePolicy::replace`]; `Usage` when the policy that it would
    /// replace is not in force any more.
    pub async fn reload(&self, reload: &Reload) -> Result<()> {
        match &reload.policy {
            NewPolicy::Egress(policy) => self.exchange(&reload.against, policy).await,
            NewPolicy::GitGate(policy) => self.exchange(&reload.against, policy).await,
        }
    }

    async fn exchange<P: Reloadable>(&self, against: &str, policy: &P) -> Result<()> {
        let live = self.lock::<P>().await?;
        if live.policy.identity() != against {
            let slug = self.dir.slug();
            return Err(Error::new(ErrorKind::Usage, "another reload of this bottle came first")
                .hint(format!("bottle reload {slug}")));
        }
        live.replace(policy).await
    }
}

/// A request to the orchestrator to put another policy in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Digest of the policy that it replaces.
    pub against: String,
    /// The new policy.
    pub policy: NewPolicy,
}

/// A daemon's new policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewPolicy {
    /// For egress.
    Egress(Policy),
    /// For git-gate.
    GitGate(GatePolicy),
}

/// The policy in force in a running bottle, locked against other reloads.
#[derive(Debug)]
pub struct LivePolicy<P> {
    file: Utf8PathBuf,
    /// The file's bytes.
    old: Vec<u8>,
    policy: P,
    reports: watch::Receiver<Option<ReloadReport>>,
    deadline: Duration,
    _turn: OwnedMutexGuard<()>,
}

impl<P: Reloadable> LivePolicy<P> {
    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// Replaces it by `policy` and waits until the daemon confirms that.
    ///
    /// # Errors
    /// `Config` when the daemon refuses it, `Engine` when it does not answer for 2 s. The old file
    /// is restored then.
    pub async fn replace(mut self, policy: &P) -> Result<()> {
        // Compact, so that the digest of the file is that of the policy: mitmproxy's addon knows a
        // policy by the file's bytes.
        let json = serde_json::to_vec(policy)
            .context(ErrorKind::Internal, || "cannot write the policy".into())?;
        if json.len() >= MAX_POLICY_BYTES {
            return Err(Error::new(ErrorKind::Config, "the policy is larger than 4 MiB"));
        }
        self.reports.mark_unchanged();
        write_private(&self.file, &json)?;
        let deadline = self.deadline;
        let answer = timeout(deadline, self.answer(&policy.identity())).await;
        let answer = answer.unwrap_or_else(|_| {
            let (daemon, seconds) = (P::DAEMON, deadline.as_secs_f64());
            let silent =
                format!("{daemon} did not answer within {seconds} s; the old policy stays");
            Err(Error::new(ErrorKind::Engine, silent)
                .hint(format!("bottle logs NAME --daemon {daemon}")))
        });
        if answer.is_err() {
            // The daemon ignores the policy that is in force already. If it confirms late, this
            // makes it go back.
            write_private(&self.file, &self.old)?;
        }
        answer
    }

    /// Waits for the daemon's report about the policy `digest`.
    async fn answer(&mut self, digest: &str) -> Result<()> {
        loop {
            if self.reports.changed().await.is_err() {
                return std::future::pending().await; // no reports any more, which is silence
            }
            match self.reports.borrow_and_update().clone() {
                // A late report about an earlier policy may come in between.
                Some(ReloadReport { digest: Some(other), .. }) if other != digest => {}
                Some(ReloadReport { error: Some(why), .. }) => {
                    let (daemon, stays) = (P::DAEMON, self.policy.identity());
                    let text =
                        format!("{daemon} refuses it: the policy {stays} stays in force: {why}");
                    return Err(Error::new(ErrorKind::Config, text));
                }
                Some(ReloadReport { digest: Some(_), error: None }) => return Ok(()),
                _ => {}
            }
        }
    }
}

/// Reads git-gate's reports. Its standard input stays open for as long as this runs: the daemon
/// ends when it closes.
pub async fn follow_gate(pipe: ControlPipe, newest: NewestReload) {
    let ControlPipe { commands: _open, mut reports } = pipe;
    while let Some(line) = reports.next().await {
        match serde_json::from_slice(&line) {
            Ok(GateReport::Reload(report)) => drop(newest.send_replace(Some(report))),
            // A newer daemon may send other reports.
            Err(e) => tracing::debug!("not a report of git-gate: {e}"),
        }
    }
    drop(reports);
    std::future::pending().await
}
