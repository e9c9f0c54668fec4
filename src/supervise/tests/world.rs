//! A desk with a bottle's files around it, and daemons that say of each policy that it is in force.
//! For tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bottle_policy::audit::{AuditEvent, AuditVerdict, AuditWriter, Line};
use bottle_policy::{Access, GatePolicy, GateUpstream, Push, Route, UntrustedText};

use super::*;
use crate::live_policy::{InForce, Reloadable};
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
    /// None while no orchestrator lives.
    pub work: Option<Work>,
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
    pub fn new(off: &[Guard]) -> Self {
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
        let mut this =
            Self { home, dir, plan, work: None, runtime, news: None, lock: None, daemons };
        this.launch(Checks::without(off));
        this
    }

    /// A launch begins: its lock, its policies, its daemons, its desk.
    pub fn launch(&mut self, guards: Checks<Guard>) {
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
        daemon::<Policy>(&self.dir, self.policy_file("policy.json"), self.daemons.clone());
        daemon::<GatePolicy>(&self.dir, self.policy_file("git-policy.json"), self.daemons.clone());
        let (daemon, news) = mpsc::channel(UNTOLD);
        self.news = Some(news);
        self.work =
            Some(Work::new(&self.dir, Arc::new(self.plan.clone()), daemon, guards).unwrap());
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
        self.dir.runtime().join(name)
    }

    pub fn work(&mut self) -> &mut Work {
        self.work.as_mut().unwrap()
    }

    /// Files a draft, or gives why not.
    pub fn try_ask(&mut self, ask: impl Asks) -> Result<u32, String> {
        let (work, runtime) = (self.work.as_mut().unwrap(), &self.runtime);
        runtime.block_on(work.file(ask.ask(), UntrustedText::new("because", 500))).map(|p| p.id)
    }

    pub fn ask(&mut self, ask: impl Asks) -> u32 {
        self.try_ask(ask).unwrap()
    }

    pub fn asks(&mut self, ask: impl Asks) -> bool {
        self.try_ask(ask).is_ok()
    }

    pub fn policies(&self) -> Policies {
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

    pub fn decide(&mut self, id: u32, verdict: Verdict) -> Result<Answer, No> {
        let (work, runtime) = (self.work.as_mut().unwrap(), &self.runtime);
        runtime.block_on(work.decide(Decide { id, via: "cli".into(), verdict }, 0))
    }

    /// Whether this yes is taken, and something is in force by it that was not.
    pub fn yes_with(&mut self, id: u32, yes: Yes) -> bool {
        let (before, verdict) = (self.policies(), self.verdict(id, yes));
        let done = matches!(self.decide(id, verdict), Ok(Answer::Done { .. }));
        done && (self.policies() != before || self.manifest() != MANIFEST)
    }

    /// One key.
    pub fn yes(&mut self, id: u32) -> bool {
        self.yes_with(id, Yes::default())
    }

    pub fn no(&mut self, id: u32) -> bool {
        matches!(self.decide(id, Verdict::Deny { reason: None }), Ok(Answer::Done { .. }))
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
        InForce::<Policy>::read(&self.dir).unwrap().replace(&policy).unwrap();
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

/// Says of each policy that comes that it is in force.
fn daemon<P: Reloadable + PartialEq + Send + 'static>(
    dir: &BottleDir,
    file: PathBuf,
    how: Arc<AtomicU8>,
) {
    let log = loop {
        match AuditWriter::open(&P::audit(dir), P::DAEMON) {
            Ok(log) => break log,
            Err(_) => std::thread::sleep(Duration::from_millis(1)), // the one before is just ending
        }
    };
    let mut known = P::read(&std::fs::read(&file).unwrap()).unwrap();
    std::thread::spawn(move || {
        while how.load(Ordering::SeqCst) != Daemons::End as u8 {
            let Ok(now) = std::fs::read(&file) else { return };
            let Ok(now) = P::read(&now) else { continue };
            if now != known && how.load(Ordering::SeqCst) != Daemons::Silent as u8 {
                let obeys = how.load(Ordering::SeqCst) == Daemons::Obey as u8;
                let (verdict, reason) = match obeys {
                    true => (
                        AuditVerdict::Allow,
                        format!("policy {} in force, was another", now.identity()),
                    ),
                    false => {
                        (AuditVerdict::Deny, "the policy stays in force: it is odd".to_owned())
                    }
                };
                log.append(
                    Line::Opening,
                    AuditEvent {
                        reason: Some(reason),
                        ..AuditEvent::new(P::DAEMON, "policy", verdict)
                    },
                )
                .unwrap();
                known = now;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
