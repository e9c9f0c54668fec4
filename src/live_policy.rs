//! The policies in force in a running bottle. The orchestrator alone replaces a policy's file; the
//! daemon watches the file, and reports that the policy is in force or why it refuses it.

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

#[cfg(test)]
mod tests {
    use std::fs;

    use bottle_policy::Route;
    use sha2::{Digest, Sha256};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::state::Roots;

    fn policy(host: &str) -> Policy {
        Policy::new(vec![Route::to("a", host.parse().unwrap())])
    }

    struct Bottle {
        _home: tempfile::TempDir,
        dir: BottleDir,
        switch: PolicySwitch,
    }

    impl Bottle {
        fn new(deadline_ms: u64) -> Self {
            let home = tempfile::tempdir().unwrap();
            let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
            let dir = roots.bottle("b").unwrap();
            fs::create_dir(dir.runtime()).unwrap();
            let switch = PolicySwitch {
                deadline: Duration::from_millis(deadline_ms),
                ..PolicySwitch::new(&dir)
            };
            let this = Self { _home: home, dir, switch };
            fs::write(this.file(), serde_json::to_vec(&policy("old.example")).unwrap()).unwrap();
            this
        }

        fn file(&self) -> Utf8PathBuf {
            self.dir.runtime().join("policy.json")
        }

        async fn lock(&self) -> Result<LivePolicy<Policy>> {
            self.switch.lock().await
        }

        /// A daemon that waits for another policy and answers; before it there are other reports.
        fn daemon(
            &self,
            answer: impl FnOnce(&Policy) -> Option<ReloadReport> + Send + 'static,
        ) -> JoinHandle<()> {
            let newest = self.switch.newest::<Policy>();
            // An earlier answer does not count for this reload.
            newest.send_replace(Some(ReloadReport::in_force(policy("new.example").digest())));
            let file = self.file();
            tokio::spawn(async move {
                let began = std::time::Instant::now();
                loop {
                    let now = Policy::from_json(&fs::read(&file).unwrap()).unwrap();
                    if now != policy("old.example") {
                        newest.send_replace(Some(ReloadReport::in_force("0000")));
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        let late = ReloadReport::refused(Some("1111".into()), "it was odd");
                        newest.send_replace(Some(late));
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        answer(&now).map(|report| newest.send_replace(Some(report)));
                        return;
                    }
                    assert!(began.elapsed() < Duration::from_secs(20));
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        }
    }

    #[tokio::test]
    async fn a_new_policy_is_swapped_in_and_waited_for() {
        let bottle = Bottle::new(20_000);
        let daemon = bottle.daemon(|now| Some(ReloadReport::in_force(now.digest())));
        let in_force = bottle.lock().await.unwrap();
        assert_eq!(in_force.policy(), &policy("old.example"));
        in_force.replace(&policy("new.example")).await.unwrap();
        daemon.await.unwrap();
        let file = fs::read(bottle.file()).unwrap();
        assert_eq!(Policy::from_json(&file).unwrap(), policy("new.example"));
        assert_eq!(hex::encode(Sha256::digest(&file)), policy("new.example").digest());
        bottle.lock().await.unwrap();
    }

    #[tokio::test]
    async fn reloads_of_a_daemon_take_turns() {
        let bottle = Bottle::new(50);
        let held = bottle.lock().await.unwrap();
        assert_eq!(
            bottle.lock().await.unwrap_err().to_string(),
            "another reload of this bottle is under way"
        );
        drop(held);
        bottle.lock().await.unwrap();
    }

    #[tokio::test]
    async fn a_reload_against_another_policy_changes_nothing() {
        let bottle = Bottle::new(20_000);
        let before = fs::read(bottle.file()).unwrap();
        let against = policy("other.example").digest();
        let reload = Reload { against, policy: NewPolicy::Egress(policy("new.example")) };
        let e = bottle.switch.reload(&reload).await.unwrap_err();
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (ErrorKind::Usage, "another reload of this bottle came first")
        );
        assert_eq!(fs::read(bottle.file()).unwrap(), before);
        let daemon = bottle.daemon(|now| Some(ReloadReport::in_force(now.digest())));
        let against = policy("old.example").digest();
        bottle.switch.reload(&Reload { against, ..reload }).await.unwrap();
        daemon.await.unwrap();
    }

    #[test]
    fn the_demos_upstream_stays_where_it_is() {
        let plan = crate::plan::tests::demo_plan();
        let mut running = plan.policy.clone();
        running.routes[0].connect = Some("127.0.0.1:1".parse().unwrap());
        running.routes[0].ca = Some("pem".into());
        let mut new = plan.policy.clone();
        let in_force = LivePolicies { routes: running.clone(), git: None };
        in_force.complete(&plan, &mut new);
        assert_eq!(new, running);
    }

    #[test]
    fn a_bottle_that_does_not_run_is_not_reloaded() {
        use crate::state::Metadata;
        let home = tempfile::tempdir().unwrap();
        let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
        let dir = roots.bottle("b").unwrap();
        let refused = |why: &str| {
            assert_eq!(require_running(&dir).unwrap_err().kind(), ErrorKind::Usage, "{why}");
        };
        refused("there is none");
        let lock = dir.lock().unwrap();
        fs::create_dir(dir.runtime()).unwrap();
        fs::write(dir.runtime().join("policy.json"), serde_json::to_vec(&policy("a.b")).unwrap())
            .unwrap();
        let metadata = Metadata::starting(&dir, "x", "qemu", "");
        dir.write_metadata(&metadata).unwrap();
        refused("it is starting");
        dir.write_metadata(&Metadata { phase: Phase::Running, ..metadata }).unwrap();
        require_running(&dir).unwrap();
        assert_eq!(in_force(&dir).unwrap().routes, policy("a.b"));
        drop(lock);
        refused("its orchestrator is dead");
    }

    #[tokio::test]
    async fn a_refused_policy_leaves_the_old_file() {
        let bottle = Bottle::new(20_000);
        let before = fs::read(bottle.file()).unwrap();
        let daemon = bottle
            .daemon(|now| Some(ReloadReport::refused(Some(now.digest()), "routes[0] is odd")));
        let e = bottle.lock().await.unwrap().replace(&policy("new.example")).await.unwrap_err();
        daemon.await.unwrap();
        let old = policy("old.example").digest();
        assert_eq!(e.kind(), ErrorKind::Config);
        assert_eq!(
            e.to_string(),
            format!("egress refuses it: the policy {old} stays in force: routes[0] is odd")
        );
        assert_eq!(fs::read(bottle.file()).unwrap(), before);
    }

    #[tokio::test]
    async fn a_silent_daemon_leaves_the_old_file() {
        let bottle = Bottle::new(200);
        let before = fs::read(bottle.file()).unwrap();
        let daemon = bottle.daemon(|_| None);
        let e = bottle.lock().await.unwrap().replace(&policy("new.example")).await.unwrap_err();
        daemon.await.unwrap();
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (ErrorKind::Engine, "egress did not answer within 0.2 s; the old policy stays")
        );
        assert_eq!(fs::read(bottle.file()).unwrap(), before);
    }

    #[tokio::test]
    async fn git_gates_reports_are_followed_and_its_pipe_stays_open() {
        use crate::host::process::Program;
        use crate::state::Journal;
        let bottle = Bottle::new(20_000);
        let dir = bottle.dir.runtime();
        let script = r#"read -r first; echo ready; echo nonsense
            echo '{"reload":{"digest":"12","error":null}}'
            while read -r line; do :; done; touch "$0/closed""#;
        let program = Program::new("fake", "/bin/sh").args(["-c", script]).arg(dir);
        let mut journal = Journal::begin(dir.join("journal")).unwrap();
        let mut daemon = program.spawn(&dir.join("fake.log"), &mut journal).unwrap();
        daemon.hand_over(&"secrets").await.unwrap();
        daemon.ready_line(Duration::from_secs(20)).await.unwrap();
        let newest = bottle.switch.newest::<GatePolicy>();
        let mut reports = newest.subscribe();
        let following = tokio::spawn(follow_gate(daemon.take_control_pipe().unwrap(), newest));
        timeout(Duration::from_secs(20), reports.changed()).await.unwrap().unwrap();
        assert_eq!(*reports.borrow(), Some(ReloadReport::in_force("12")));
        assert!(!dir.join("closed").exists());
        following.abort();
        timeout(Duration::from_secs(20), daemon.ended()).await.unwrap();
        assert!(dir.join("closed").exists());
    }
}
