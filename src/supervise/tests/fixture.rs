//! A broker with a bottle's files around it, and daemons that confirm each policy.
//! For tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bottle_policy::{Access, GatePolicy, GateUpstream, Push, ReloadReport, Route, UntrustedText};

use super::*;
use crate::live_policy::{LivePolicies, NewestReload, PolicySwitch, Reloadable};
use crate::state::{Metadata, Phase, Roots};

pub const MANIFEST: &str = "# mine\nversion = 1\n[agents.w]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.dev]\nimage = \"demo\"\n[[bottles.dev.git]]\nurl = \"https://forge.test/x.git\"\nbranches = [\"agent/*\"]\n";

/// What the daemons answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemons {
    Obey,
    Refuse,
    /// They hang.
    Silent,
    End,
}

/// A yes.
#[derive(Default)]
pub struct Yes {
    /// Against which policy; none: the one in force.
    pub against: Option<String>,
    pub scope: Option<Scope>,
    pub route: Option<RouteAsk>,
    pub typed: Option<&'static str>,
    pub answer: Option<&'static str>,
}

pub struct World {
    pub home: tempfile::TempDir,
    pub dir: BottleDir,
    pub plan: LaunchPlan,
    pub switch: Arc<PolicySwitch>,
    /// None while no orchestrator lives.
    pub work: Option<BrokerState>,
    pub runtime: tokio::runtime::Runtime,
    news: Option<mpsc::Receiver<SuperviseCommand>>,
    lock: Option<Box<dyn std::any::Any>>,
    daemons: Arc<AtomicU8>,
}

pub fn route(host: &str, path: &str) -> RouteAsk {
    let methods = vec!["GET".parse().unwrap()];
    RouteAsk {
        host: host.parse().unwrap(),
        port: 443,
        methods,
        paths: vec![path.parse().unwrap()],
        tls: true,
    }
}

pub fn plain(host: &str) -> RouteAsk {
    RouteAsk { tls: false, port: 80, ..route(host, "/x") }
}

pub fn branch(name: &str) -> Ask {
    Ask::Ref { upstream: "x".parse().unwrap(), branches: vec![name.parse().unwrap()] }
}

/// A route alone is an ask, too.
pub trait Asks {
    fn ask(self) -> Ask;
}

impl Asks for RouteAsk {
    fn ask(self) -> Ask {
        Ask::Route(self)
    }
}

impl Asks for Ask {
    fn ask(self) -> Ask {
        self
    }
}

impl World {
    pub fn new(off: &[Check]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
        let dir = roots.bottle("b").unwrap();
        let mut plan = crate::plan::tests::demo_plan();
        plan.policy = Policy::new(vec![Route {
            passthrough: true,
            ..Route::to("pinned", "a.pinned.test".parse().unwrap())
        }]);
        plan.bottle = "dev".parse().unwrap();
        plan.manifest = Some(home.path().join("bottle.toml"));
        std::fs::write(home.path().join("bottle.toml"), MANIFEST).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let daemons = Arc::new(AtomicU8::new(Daemons::Obey as u8));
        let switch = Arc::new(PolicySwitch::new(&dir));
        let mut this =
            Self { home, dir, plan, switch, work: None, runtime, news: None, lock: None, daemons };
        this.launch(Checks::without(off));
        this
    }

    /// A launch begins: its lock, policies, daemons and broker.
    pub fn launch(&mut self, checks: Checks<Check>) {
        self.lock = Some(Box::new(self.dir.lock().unwrap()));
        private_dir(self.dir.runtime()).unwrap();
        std::fs::write(
            self.policy_file("policy.json"),
            serde_json::to_vec(&self.plan.policy).unwrap(),
        )
        .unwrap();
        let upstream = GateUpstream {
            name: "x".parse().unwrap(),
            url: "https://forge.test/x.git".parse().unwrap(),
            access: Access::None,
            known_hosts: None,
            ca: None,
            connect: None,
            stale: Default::default(),
            attest: None,
            push: Some(Push::to(vec!["agent/*".parse().unwrap()])),
        };
        let gate = GatePolicy {
            version: 1,
            agent: "w".into(),
            slug: "b".into(),
            upstreams: vec![upstream],
        };
        std::fs::write(self.policy_file("git-policy.json"), serde_json::to_vec(&gate).unwrap())
            .unwrap();
        let metadata = Metadata::starting(&self.dir, "w", "qemu", "");
        self.dir.write_metadata(&Metadata { phase: Phase::Running, ..metadata }).unwrap();
        self.daemons = Arc::new(AtomicU8::new(Daemons::Obey as u8));
        self.switch = Arc::new(PolicySwitch::new(&self.dir));
        self.start_daemon::<Policy>();
        self.start_daemon::<GatePolicy>();
        let (daemon, news) = mpsc::channel(MAX_QUEUED_COMMANDS);
        self.news = Some(news);
        let (plan, switch) = (Arc::new(self.plan.clone()), Arc::clone(&self.switch));
        self.work = Some(BrokerState::new(&self.dir, plan, switch, daemon, checks).unwrap());
    }

    fn start_daemon<P: Reloadable + PartialEq + Send + 'static>(&self) {
        daemon::<P>(self.policy_file(P::FILE), self.switch.newest::<P>(), self.daemons.clone());
    }

    /// The orchestrator is gone, as by `kill -9`, and its daemons with it.
    pub fn die(&mut self) {
        (self.work, self.lock) = (None, None);
        self.daemons.store(Daemons::End as u8, Ordering::SeqCst);
    }

    pub fn daemons(&self, how: Daemons) {
        self.daemons.store(how as u8, Ordering::SeqCst);
    }

    fn policy_file(&self, name: &str) -> PathBuf {
        self.dir.runtime().join(name).into()
    }

    pub fn work(&mut self) -> &mut BrokerState {
        self.work.as_mut().unwrap()
    }

    /// Files a draft, or gives why not.
    pub fn try_ask(&mut self, ask: impl Asks) -> Result<u32, String> {
        let (work, runtime) = (self.work.as_mut().unwrap(), &self.runtime);
        runtime.block_on(work.submit(ask.ask(), UntrustedText::new("because", 500))).map(|p| p.id)
    }

    pub fn ask(&mut self, ask: impl Asks) -> u32 {
        self.try_ask(ask).unwrap()
    }

    pub fn asks(&mut self, ask: impl Asks) -> bool {
        self.try_ask(ask).is_ok()
    }

    pub fn policies(&self) -> LivePolicies {
        crate::live_policy::in_force(&self.dir).unwrap()
    }

    /// The decision `yes` on the proposal `id`.
    pub fn verdict(&self, id: u32, yes: Yes) -> Verdict {
        let asked = self.work.as_ref().and_then(|w| w.queue.get(id)).map(|p| p.ask.clone());
        let against = yes
            .against
            .or_else(|| asked.map(|a| self.policies().digest_for(&a)))
            .unwrap_or_default();
        let text = |t: Option<&str>| t.map(str::to_owned);
        Verdict::Approve {
            against,
            scope: yes.scope.unwrap_or(Scope::Launch),
            route: yes.route,
            typed: text(yes.typed),
            answer: text(yes.answer),
        }
    }

    pub fn decide(&mut self, id: u32, verdict: Verdict) -> Result<DecisionOutcome, Rejection> {
        let (work, runtime) = (self.work.as_mut().unwrap(), &self.runtime);
        runtime.block_on(work.decide(Decide { id, via: "cli".into(), verdict }, 0))
    }

    /// Whether this yes is taken, and something is in force by it that was not.
    pub fn yes_with(&mut self, id: u32, yes: Yes) -> bool {
        let (before, verdict) = (self.policies(), self.verdict(id, yes));
        let done = matches!(self.decide(id, verdict), Ok(DecisionOutcome::Done { .. }));
        done && (self.policies() != before || self.manifest() != MANIFEST)
    }

    /// One key.
    pub fn yes(&mut self, id: u32) -> bool {
        self.yes_with(id, Yes::default())
    }

    pub fn deny(&mut self, id: u32) -> bool {
        matches!(self.decide(id, Verdict::Deny { reason: None }), Ok(DecisionOutcome::Done { .. }))
    }

    /// The proposal as it is on disk.
    pub fn on_disk(&self, id: u32) -> Proposal {
        let text = std::fs::read(self.dir.proposals().join(format!("{id}.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    pub fn manifest(&self) -> String {
        std::fs::read_to_string(self.home.path().join("bottle.toml")).unwrap()
    }

    /// Another reload comes in between.
    pub fn reload(&mut self, host: &str) {
        let mut policy = self.policies().routes;
        policy.routes.push(Route::to(host.to_owned(), host.parse().unwrap()));
        let replace = async { self.switch.lock::<Policy>().await?.replace(&policy).await };
        self.runtime.block_on(replace).unwrap();
    }

    /// So that its time is over.
    pub fn expire(&mut self, id: u32) {
        let mut proposal = self.on_disk(id);
        proposal.expires_ms = 1;
        self.work().queue.put(proposal).unwrap();
    }

    pub fn pending(&mut self) -> usize {
        self.work().queue.pending().len()
    }

    /// What the agent was told, oldest first.
    pub fn told(&mut self) -> Vec<SuperviseCommand> {
        let news = self.news.as_mut().unwrap();
        std::iter::from_fn(|| news.try_recv().ok()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.daemons(Daemons::End);
    }
}

/// Reports of each policy that comes that it is in force, or refuses it.
fn daemon<P: Reloadable + PartialEq + Send + 'static>(
    file: PathBuf,
    newest: NewestReload,
    how: Arc<AtomicU8>,
) {
    let mut known = P::read(&std::fs::read(&file).unwrap()).unwrap();
    std::thread::spawn(move || {
        while how.load(Ordering::SeqCst) != Daemons::End as u8 {
            let Ok(now) = std::fs::read(&file) else { return };
            let Ok(now) = P::read(&now) else { continue };
            if now != known && how.load(Ordering::SeqCst) != Daemons::Silent as u8 {
                let obeys = how.load(Ordering::SeqCst) == Daemons::Obey as u8;
                newest.send_replace(Some(match obeys {
                    true => ReloadReport::in_force(now.identity()),
                    false => ReloadReport::refused(Some(now.identity()), "it is odd"),
                }));
                known = now;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
