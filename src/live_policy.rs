//! Another policy for a running bottle: the file is swapped, and the daemon says in its audit log
//! what it made of it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bottle_policy::audit::{AuditRecord, AuditVerdict};
use bottle_policy::{GRANTED_ROUTE_PREFIX, GatePolicy, Policy, PolicyTextError};
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Kind, Result};
use crate::plan::{DEMO_HOST, LaunchPlan};
use crate::provider;
use crate::state::{BottleDir, Phase, write_private};
use crate::supervise::Policies;

/// How long the daemon may take to say that a policy is in force.
const DEADLINE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(2);
/// Largest policy file, bytes.
const MAX: u64 = 4 << 20;

/// A policy that its daemon takes anew while it runs.
pub trait Reloadable: serde::Serialize + Sized {
    /// The daemon, as its audit lines name it.
    const DAEMON: &'static str;
    /// The policy's file in the bottle's runtime directory.
    const FILE: &'static str;

    /// Reads a policy file's text.
    ///
    /// # Errors
    /// Line, column and key.
    fn read(text: &[u8]) -> Result<Self, PolicyTextError>;

    /// What the daemon calls it.
    fn identity(&self) -> String;

    /// The daemon's audit log.
    fn audit(dir: &BottleDir) -> PathBuf;
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

    fn audit(dir: &BottleDir) -> PathBuf {
        dir.audit()
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

    fn audit(dir: &BottleDir) -> PathBuf {
        dir.git_audit()
    }
}

/// What is in force in the running bottle `dir`.
///
/// # Errors
/// `Config` when it cannot be read: the bottle does not run.
pub fn in_force(dir: &BottleDir) -> Result<Policies> {
    let routes = InForce::<Policy>::policy_of(dir)?;
    let has_git = dir.recorded_control_socket().with_file_name(GatePolicy::FILE).exists();
    let git = has_git.then(|| InForce::<GatePolicy>::policy_of(dir)).transpose()?;
    Ok(Policies { routes, git })
}

/// The policy file of a running bottle, held against other reloads.
#[derive(Debug)]
pub struct InForce<P = Policy> {
    file: PathBuf,
    audit: PathBuf,
    bytes: Vec<u8>,
    policy: P,
    deadline: Duration,
    _held: Flock<File>,
}

impl<P: Reloadable> InForce<P> {
    /// Reads what is in force in the running bottle `dir`.
    ///
    /// # Errors
    /// `Usage` when it does not run (or is still starting), or when another reload is under way.
    pub fn read(dir: &BottleDir) -> Result<Self> {
        let absent = || {
            Error::new(Kind::Usage, format!("bottle {:?} is not running", dir.slug()))
                .hint("bottle list")
        };
        let status = dir
            .status()
            .filter(|s| s.alive && s.metadata.phase == Phase::Running)
            .ok_or_else(absent)?;
        let lock = dir.plan().with_file_name(format!("reload-{}.lock", P::DAEMON));
        Self::at(status.metadata.runtime.join(P::FILE), P::audit(dir), &lock)
    }

    fn at(file: PathBuf, audit: PathBuf, lock: &Path) -> Result<Self> {
        let what = || format!("cannot open {}", lock.display());
        let held = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(lock)
            .context(Kind::Config, what)?;
        let held =
            Flock::lock(held, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
                nix::errno::Errno::EWOULDBLOCK => {
                    Error::new(Kind::Usage, "another reload of this bottle is under way")
                }
                e => Error::new(Kind::Config, format!("cannot lock {}: {e}", lock.display())),
            })?;
        let what = || format!("cannot read {}", file.display());
        let mut bytes = Vec::new();
        File::open(&file)
            .context(Kind::Config, what)?
            .take(MAX)
            .read_to_end(&mut bytes)
            .context(Kind::Config, what)?;
        let policy = P::read(&bytes).context(Kind::Config, what)?;
        Ok(Self { file, audit, bytes, policy, deadline: DEADLINE, _held: held })
    }

    /// What is in force in `dir`, without holding it.
    ///
    /// # Errors
    /// `Config` when it cannot be read: the bottle does not run.
    pub fn policy_of(dir: &BottleDir) -> Result<P> {
        let file = dir.recorded_control_socket().with_file_name(P::FILE);
        let bytes = std::fs::read(&file)
            .context(Kind::Config, || format!("cannot read {}", file.display()))?;
        P::read(&bytes).context(Kind::Config, || format!("cannot read {}", file.display()))
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// Puts `policy` in its place and waits until the daemon says that it is in force.
    ///
    /// # Errors
    /// `Config` when the daemon refuses it, `Engine` when it says nothing for 2 s. The file is as
    /// it was then.
    pub fn replace(self, policy: &P) -> Result<()> {
        let what = || format!("cannot read {}", self.audit.display());
        let mut log = File::open(&self.audit).context(Kind::Config, what)?;
        log.seek(SeekFrom::End(0)).context(Kind::Config, what)?;
        let json = serde_json::to_vec_pretty(policy)
            .context(Kind::Internal, || "cannot write the policy".into())?;
        if json.len() as u64 >= MAX {
            return Err(Error::new(Kind::Config, "the policy is larger than 4 MiB"));
        }
        write_private(&self.file, &json)?;
        let answer = self.answer(&mut log, &policy.identity());
        if answer.is_err() {
            // The daemon passes over the policy that is in force already; an answer that comes late
            // is undone by this.
            write_private(&self.file, &self.bytes)?;
        }
        answer
    }

    fn answer(&self, log: &mut File, digest: &str) -> Result<()> {
        let began = Instant::now();
        let mut text = Vec::new();
        loop {
            let late = began.elapsed() > self.deadline; // then this is the last look
            log.read_to_end(&mut text)
                .context(Kind::Config, || format!("cannot read {}", self.audit.display()))?;
            let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            for line in text.drain(..whole).as_slice().split(|b| *b == b'\n') {
                if let Some(answer) = answers(P::DAEMON, line, digest) {
                    return answer;
                }
            }
            if late {
                let seconds = self.deadline.as_secs_f64();
                return Err(Error::new(
                    Kind::Engine,
                    format!(
                        "{} did not answer within {seconds} s; the old policy stays",
                        P::DAEMON
                    ),
                )
                .hint(format!("bottle logs NAME --daemon {}", P::DAEMON)));
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl InForce {
    /// Fills in what only the launch knows: what the operator granted to it, and where the demo's
    /// upstream is.
    pub fn complete(&self, plan: &LaunchPlan, policy: &mut Policy) {
        policy.routes.extend(
            self.policy.routes.iter().filter(|r| r.name.starts_with(GRANTED_ROUTE_PREFIX)).cloned(),
        );
        if !provider::needs_demo_upstream(plan) {
            return;
        }
        let Some(demo) = self.policy.routes.iter().find(|r| r.host.as_str() == DEMO_HOST) else {
            return;
        };
        for route in policy.routes.iter_mut().filter(|r| r.host.as_str() == DEMO_HOST) {
            route.connect = demo.connect;
            route.ca.clone_from(&demo.ca);
        }
    }
}

/// What a line of the audit log says about the policy `digest`, if it says something.
fn answers(daemon: &str, line: &[u8], digest: &str) -> Option<Result<()>> {
    let event = serde_json::from_slice::<AuditRecord>(line).ok()?.what;
    if event.event != "policy" || event.daemon != daemon {
        return None;
    }
    let reason = event.reason.unwrap_or_default();
    match event.verdict {
        // Another policy than ours may have come into force in between.
        AuditVerdict::Allow => {
            reason.starts_with(&format!("policy {digest} in force")).then_some(Ok(()))
        }
        AuditVerdict::Deny => {
            Some(Err(Error::new(Kind::Config, format!("{daemon} refuses it: {reason}"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bottle_policy::Route;
    use bottle_policy::audit::{AuditEvent, AuditWriter, Line};

    use super::*;

    fn policy(host: &str) -> Policy {
        Policy::new(vec![Route::to("a", host.parse().unwrap())])
    }

    struct Bottle(tempfile::TempDir);

    impl Bottle {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(
                dir.path().join("policy.json"),
                serde_json::to_vec(&policy("old.example")).unwrap(),
            )
            .unwrap();
            Self(dir)
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("policy.json")
        }

        fn in_force(&self, ms: u64) -> Result<InForce> {
            let found = InForce::at(
                self.file(),
                self.0.path().join("audit"),
                &self.0.path().join("reload.lock"),
            );
            found.map(|f| InForce { deadline: Duration::from_millis(ms), ..f })
        }

        /// A daemon that waits for another policy and answers; before it there is other traffic.
        fn daemon(
            &self,
            answer: impl FnOnce(&Policy) -> Option<AuditEvent> + Send + 'static,
        ) -> std::thread::JoinHandle<()> {
            let log = AuditWriter::open(&self.0.path().join("audit"), "egress").unwrap();
            // An answer from before is none to this reload.
            log.append(Line::Opening, said(AuditVerdict::Allow, &policy("new.example").digest()))
                .unwrap();
            let file = self.file();
            std::thread::spawn(move || {
                let began = Instant::now();
                loop {
                    let now = Policy::from_json(&fs::read(&file).unwrap()).unwrap();
                    if now != policy("old.example") {
                        log.append(
                            Line::Opening,
                            AuditEvent::new("egress", "request", AuditVerdict::Deny),
                        )
                        .unwrap();
                        log.append(Line::Opening, said(AuditVerdict::Allow, "0000")).unwrap();
                        answer(&now).map(|event| log.append(Line::Opening, event).unwrap());
                        return;
                    }
                    assert!(began.elapsed() < Duration::from_secs(20));
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        }
    }

    fn said(verdict: AuditVerdict, digest: &str) -> AuditEvent {
        let reason = match verdict {
            AuditVerdict::Allow => format!("policy {digest} in force, was 1234"),
            AuditVerdict::Deny => "the policy 1234 stays in force: routes[0] is odd".to_owned(),
        };
        AuditEvent { reason: Some(reason), ..AuditEvent::new("egress", "policy", verdict) }
    }

    #[test]
    fn a_new_policy_is_swapped_in_and_waited_for() {
        let bottle = Bottle::new();
        let daemon = bottle.daemon(|now| Some(said(AuditVerdict::Allow, &now.digest())));
        let in_force = bottle.in_force(20_000).unwrap();
        assert_eq!(in_force.policy(), &policy("old.example"));
        assert_eq!(
            bottle.in_force(1).unwrap_err().to_string(),
            "another reload of this bottle is under way"
        );
        in_force.replace(&policy("new.example")).unwrap();
        daemon.join().unwrap();
        assert_eq!(
            Policy::from_json(&fs::read(bottle.file()).unwrap()).unwrap(),
            policy("new.example")
        );
        bottle.in_force(1).unwrap();
    }

    #[test]
    fn the_demos_upstream_stays_where_it_is() {
        let bottle = Bottle::new();
        let plan = crate::plan::tests::demo_plan();
        let mut running = plan.policy.clone();
        running.routes[0].connect = Some("127.0.0.1:1".parse().unwrap());
        running.routes[0].ca = Some("pem".into());
        fs::write(bottle.file(), serde_json::to_vec(&running).unwrap()).unwrap();
        let mut new = plan.policy.clone();
        bottle.in_force(1).unwrap().complete(&plan, &mut new);
        assert_eq!(new, running);
    }

    #[test]
    fn a_bottle_that_does_not_run_is_not_reloaded() {
        use crate::state::{Metadata, Roots};
        let home = tempfile::tempdir().unwrap();
        let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
        let dir = roots.bottle("x").unwrap();
        assert_eq!(InForce::<Policy>::read(&dir).unwrap_err().kind(), Kind::Usage, "there is none");
        let lock = dir.lock().unwrap();
        fs::create_dir(dir.runtime()).unwrap();
        fs::write(dir.runtime().join("policy.json"), serde_json::to_vec(&policy("a.b")).unwrap())
            .unwrap();
        let metadata = Metadata::starting(&dir, "x", "qemu", "");
        dir.write_metadata(&metadata).unwrap();
        assert_eq!(
            InForce::<Policy>::read(&dir).unwrap_err().kind(),
            Kind::Usage,
            "it is starting"
        );
        dir.write_metadata(&Metadata { phase: Phase::Running, ..metadata }).unwrap();
        assert_eq!(InForce::<Policy>::read(&dir).unwrap().policy(), &policy("a.b"));
        drop(lock);
        assert_eq!(
            InForce::<Policy>::read(&dir).unwrap_err().kind(),
            Kind::Usage,
            "its orchestrator is dead"
        );
    }

    #[test]
    fn a_refused_policy_leaves_the_old_file() {
        let bottle = Bottle::new();
        let before = fs::read(bottle.file()).unwrap();
        let daemon = bottle.daemon(|_| Some(said(AuditVerdict::Deny, "")));
        let e = bottle.in_force(20_000).unwrap().replace(&policy("new.example")).unwrap_err();
        daemon.join().unwrap();
        assert_eq!(
            (e.kind(), e.to_string().contains("routes[0] is odd")),
            (Kind::Config, true),
            "{e}"
        );
        assert_eq!(fs::read(bottle.file()).unwrap(), before);
    }

    #[test]
    fn a_daemon_that_says_nothing_leaves_the_old_file() {
        let bottle = Bottle::new();
        let before = fs::read(bottle.file()).unwrap();
        let daemon = bottle.daemon(|_| None);
        let e = bottle.in_force(200).unwrap().replace(&policy("new.example")).unwrap_err();
        daemon.join().unwrap();
        assert_eq!(
            (e.kind(), e.to_string().contains("did not answer")),
            (Kind::Engine, true),
            "{e}"
        );
        assert_eq!(fs::read(bottle.file()).unwrap(), before);
    }
}
