//! Tests of `live_policy`.

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
    let daemon =
        bottle.daemon(|now| Some(ReloadReport::refused(Some(now.digest()), "routes[0] is odd")));
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
