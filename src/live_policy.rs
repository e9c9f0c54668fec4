//! The policies in force in a running bottle. A new one replaces the policy's file; the daemon
//! watches the file and confirms or refuses the policy in its audit log.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bottle_policy::audit::{AuditRecord, AuditVerdict};
use bottle_policy::{Ask, GRANTED_ROUTE_PREFIX, GatePolicy, Policy, PolicyTextError};
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::write_private;
use crate::plan::LaunchPlan;
use crate::provider::DEMO_HOST;
use crate::state::{BottleDir, Phase};

/// How long the daemon may take to confirm a policy.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);
/// How often the audit log is read for the confirmation.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Largest policy file, bytes.
const MAX_POLICY_BYTES: u64 = 4 << 20;

/// A policy that its daemon reloads while it runs.
pub trait Reloadable: serde::Serialize + Sized {
    /// The daemon's name in its audit lines.
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
        dir.audit().into()
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
        dir.git_audit().into()
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
}

/// The policies in force in the running bottle `dir`.
///
/// # Errors
/// `Config` when it cannot be read: the bottle does not run.
pub fn in_force(dir: &BottleDir) -> Result<LivePolicies> {
    let routes = LivePolicy::<Policy>::policy_of(dir)?;
    let has_git = dir.recorded_control_socket().with_file_name(GatePolicy::FILE).exists();
    let git = has_git.then(|| LivePolicy::<GatePolicy>::policy_of(dir)).transpose()?;
    Ok(LivePolicies { routes, git })
}

/// The policy in force in a running bottle, locked against other reloads.
#[derive(Debug)]
pub struct LivePolicy<P = Policy> {
    file: PathBuf,
    audit: PathBuf,
    bytes: Vec<u8>,
    policy: P,
    deadline: Duration,
    _held: Flock<File>,
}

impl<P: Reloadable> LivePolicy<P> {
    /// Reads and locks the policy in force in the running bottle `dir`.
    ///
    /// # Errors
    /// `Usage` when it does not run (or is still starting), or when another reload is under way.
    pub fn read(dir: &BottleDir) -> Result<Self> {
        let absent = || {
            Error::new(ErrorKind::Usage, format!("bottle {:?} is not running", dir.slug()))
                .hint("bottle list")
        };
        let status = dir
            .status()
            .filter(|s| s.alive && s.metadata.phase == Phase::Running)
            .ok_or_else(absent)?;
        let lock = dir.plan().with_file_name(format!("reload-{}.lock", P::DAEMON));
        Self::at(status.metadata.runtime.join(P::FILE).into(), P::audit(dir), lock.as_ref())
    }

    fn at(file: PathBuf, audit: PathBuf, lock: &Path) -> Result<Self> {
        let what = || format!("cannot open {}", lock.display());
        let held = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(lock)
            .context(ErrorKind::Io, what)?;
        let held =
            Flock::lock(held, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
                nix::errno::Errno::EWOULDBLOCK => {
                    Error::new(ErrorKind::Usage, "another reload of this bottle is under way")
                }
                e => Error::new(ErrorKind::Config, format!("cannot lock {}: {e}", lock.display())),
            })?;
        let what = || format!("cannot read {}", file.display());
        let mut bytes = Vec::new();
        File::open(&file)
            .context(ErrorKind::Config, what)?
            .take(MAX_POLICY_BYTES)
            .read_to_end(&mut bytes)
            .context(ErrorKind::Config, what)?;
        let policy = P::read(&bytes).context(ErrorKind::Config, what)?;
        Ok(Self { file, audit, bytes, policy, deadline: CONFIRM_DEADLINE, _held: held })
    }

    /// The policy in force in `dir`, without the lock.
    ///
    /// # Errors
    /// `Config` when it cannot be read: the bottle does not run.
    pub fn policy_of(dir: &BottleDir) -> Result<P> {
        let file = dir.recorded_control_socket().with_file_name(P::FILE);
        let bytes =
            std::fs::read(&file).context(ErrorKind::Config, || format!("cannot read {file}"))?;
        P::read(&bytes).context(ErrorKind::Config, || format!("cannot read {file}"))
    }

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
    pub fn replace(self, policy: &P) -> Result<()> {
        let what = || format!("cannot read {}", self.audit.display());
        let mut log = File::open(&self.audit).context(ErrorKind::Io, what)?;
        log.seek(SeekFrom::End(0)).context(ErrorKind::Io, what)?;
        // Compact, so that the digest of the file is that of the policy: mitmproxy's addon knows a
        // policy by the file's bytes.
        let json = serde_json::to_vec(policy)
            .context(ErrorKind::Internal, || "cannot write the policy".into())?;
        if json.len() as u64 >= MAX_POLICY_BYTES {
            return Err(Error::new(ErrorKind::Config, "the policy is larger than 4 MiB"));
        }
        write_private(&self.file, &json)?;
        let answer = self.answer(&mut log, &policy.identity());
        if answer.is_err() {
            // The daemon ignores the policy that is in force already. If it confirms late, this
            // makes it go back.
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
                .context(ErrorKind::Io, || format!("cannot read {}", self.audit.display()))?;
            let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            for line in text.drain(..whole).as_slice().split(|b| *b == b'\n') {
                if let Some(answer) = answers(P::DAEMON, line, digest) {
                    return answer;
                }
            }
            if late {
                let seconds = self.deadline.as_secs_f64();
                return Err(Error::new(
                    ErrorKind::Engine,
                    format!(
                        "{} did not answer within {seconds} s; the old policy stays",
                        P::DAEMON
                    ),
                )
                .hint(format!("bottle logs NAME --daemon {}", P::DAEMON)));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl LivePolicy {
    /// Adds to `policy` what only the launch knows: routes that the operator granted, and the
    /// address of the demo's upstream.
    pub fn complete(&self, plan: &LaunchPlan, policy: &mut Policy) {
        policy.routes.extend(
            self.policy.routes.iter().filter(|r| r.name.starts_with(GRANTED_ROUTE_PREFIX)).cloned(),
        );
        if !plan.provider.needs_demo_upstream {
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

/// The daemon's answer about the policy `digest`, if this line of the audit log is one.
fn answers(daemon: &str, line: &[u8], digest: &str) -> Option<Result<()>> {
    let event = serde_json::from_slice::<AuditRecord>(line).ok()?.what;
    if event.event != "policy" || event.daemon != daemon {
        return None;
    }
    let reason = event.reason.unwrap_or_default();
    match event.verdict {
        // A confirmation of another policy may come in between.
        AuditVerdict::Allow => {
            reason.starts_with(&format!("policy {digest} in force")).then_some(Ok(()))
        }
        AuditVerdict::Deny => {
            Some(Err(Error::new(ErrorKind::Config, format!("{daemon} refuses it: {reason}"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bottle_policy::Route;
    use bottle_policy::audit::{AuditEvent, AuditWriter, Line};
    use sha2::{Digest, Sha256};

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

        fn in_force(&self, ms: u64) -> Result<LivePolicy> {
            let found = LivePolicy::at(
                self.file(),
                self.0.path().join("audit"),
                &self.0.path().join("reload.lock"),
            );
            found.map(|f| LivePolicy { deadline: Duration::from_millis(ms), ..f })
        }

        /// A daemon that waits for another policy and answers; before it there is other traffic.
        fn daemon(
            &self,
            answer: impl FnOnce(&Policy) -> Option<AuditEvent> + Send + 'static,
        ) -> std::thread::JoinHandle<()> {
            let log = AuditWriter::open(&self.0.path().join("audit"), "egress").unwrap();
            // An earlier answer does not count for this reload.
            log.append(
                Line::Opening,
                answer_line(AuditVerdict::Allow, &policy("new.example").digest()),
            )
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
                        log.append(Line::Opening, answer_line(AuditVerdict::Allow, "0000"))
                            .unwrap();
                        answer(&now).map(|event| log.append(Line::Opening, event).unwrap());
                        return;
                    }
                    assert!(began.elapsed() < Duration::from_secs(20));
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        }
    }

    fn answer_line(verdict: AuditVerdict, digest: &str) -> AuditEvent {
        let reason = match verdict {
            AuditVerdict::Allow => format!("policy {digest} in force, was 1234"),
            AuditVerdict::Deny => "the policy 1234 stays in force: routes[0] is odd".to_owned(),
        };
        AuditEvent { reason: Some(reason), ..AuditEvent::new("egress", "policy", verdict) }
    }

    #[test]
    fn a_new_policy_is_swapped_in_and_waited_for() {
        let bottle = Bottle::new();
        let daemon = bottle.daemon(|now| Some(answer_line(AuditVerdict::Allow, &now.digest())));
        let in_force = bottle.in_force(20_000).unwrap();
        assert_eq!(in_force.policy(), &policy("old.example"));
        assert_eq!(
            bottle.in_force(1).unwrap_err().to_string(),
            "another reload of this bottle is under way"
        );
        in_force.replace(&policy("new.example")).unwrap();
        daemon.join().unwrap();
        let file = fs::read(bottle.file()).unwrap();
        assert_eq!(Policy::from_json(&file).unwrap(), policy("new.example"));
        assert_eq!(hex::encode(Sha256::digest(&file)), policy("new.example").digest());
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
        assert_eq!(
            LivePolicy::<Policy>::read(&dir).unwrap_err().kind(),
            ErrorKind::Usage,
            "there is none"
        );
        let lock = dir.lock().unwrap();
        fs::create_dir(dir.runtime()).unwrap();
        fs::write(dir.runtime().join("policy.json"), serde_json::to_vec(&policy("a.b")).unwrap())
            .unwrap();
        let metadata = Metadata::starting(&dir, "x", "qemu", "");
        dir.write_metadata(&metadata).unwrap();
        assert_eq!(
            LivePolicy::<Policy>::read(&dir).unwrap_err().kind(),
            ErrorKind::Usage,
            "it is starting"
        );
        dir.write_metadata(&Metadata { phase: Phase::Running, ..metadata }).unwrap();
        assert_eq!(LivePolicy::<Policy>::read(&dir).unwrap().policy(), &policy("a.b"));
        drop(lock);
        assert_eq!(
            LivePolicy::<Policy>::read(&dir).unwrap_err().kind(),
            ErrorKind::Usage,
            "its orchestrator is dead"
        );
    }

    #[test]
    fn a_refused_policy_leaves_the_old_file() {
        let bottle = Bottle::new();
        let before = fs::read(bottle.file()).unwrap();
        let daemon = bottle.daemon(|_| Some(answer_line(AuditVerdict::Deny, "")));
        let e = bottle.in_force(20_000).unwrap().replace(&policy("new.example")).unwrap_err();
        daemon.join().unwrap();
        assert_eq!(
            (e.kind(), e.to_string().contains("routes[0] is odd")),
            (ErrorKind::Config, true),
            "{e}"
        );
        assert_eq!(fs::read(bottle.file()).unwrap(), before);
    }

    #[test]
    fn a_silent_daemon_leaves_the_old_file() {
        let bottle = Bottle::new();
        let before = fs::read(bottle.file()).unwrap();
        let daemon = bottle.daemon(|_| None);
        let e = bottle.in_force(200).unwrap().replace(&policy("new.example")).unwrap_err();
        daemon.join().unwrap();
        assert_eq!(
            (e.kind(), e.to_string().contains("did not answer")),
            (ErrorKind::Engine, true),
            "{e}"
        );
        assert_eq!(fs::read(bottle.file()).unwrap(), before);
    }
}
