//! The ordered bring-up of a bottle, its journal, and its teardown in reverse.

mod attach;
mod control;
mod endpoints;
mod progress;
mod selftest;
mod signals;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bottle_channel::{ExecRequest, HostOpen, SELF, Session};
use bottle_policy::{EgressInput, GatePolicy, Route, Secret, TokenName};
use tokio::sync::{Notify, watch};

pub use attach::attach;
pub use control::{Request, connect, decide, stop};

use crate::bundle::{Bundle, BundleRuntime, BundleSpec, HostProcesses};
use crate::closure::Closure;
use crate::credentials::refresh::Refresher;
use crate::credentials::{deploy_key, git as gate, tokens};
use crate::error::{Context, Error, Kind, Result};
use crate::fault_injection::breaks;
use crate::host::stderr::{self as say, say};
use crate::host::terminal;
use crate::machine::{Engine, MachineSpec, Running};
use crate::manifest::{EnvName, Provider, WorkspaceMode};
use crate::pki::Authority;
use crate::plan::{DEMO_COMMAND, DEMO_HOST, DEMO_REPOSITORY, DEMO_TOKEN, LaunchPlan};
use crate::provider::{self, demo::DemoUpstream};
use crate::provision;
use crate::state::{BottleDir, Journal, Metadata, Phase, Roots, Step, write_private};
use crate::supervise::Desk;
use crate::workspace::transfer as work;
use crate::workspace::{self, Baseline, Guards, Snapshot};
use control::{Control, Up};
use endpoints::Splices;
use progress::Progress;
use selftest::Canary;
use signals::Signals;

/// Longest time for any single answer of a guest before its agent runs.
const GUEST_DEADLINE: Duration = Duration::from_secs(60);

/// Longest time for an orderly end of a machine.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);

/// What a launch needs besides its plan.
pub struct Launch<'a> {
    /// Where bottles live.
    pub roots: &'a Roots,
    /// What they are made of.
    pub closure: &'a Closure,
    /// Guest variables that the operator gave for this launch: their values stay out of every file.
    pub given: BTreeSet<EnvName>,
    /// What of the project goes in.
    pub workspace: Option<Snapshot>,
    /// Go on with the disk of the launch before, which must be there.
    pub resume: bool,
    /// Keep the disk at an orderly end, for `bottle resume`.
    pub keep: bool,
    /// No progress lines.
    pub quiet: bool,
}

/// What lives as long as the bottle.
#[derive(Default)]
struct Parts {
    upstream: Option<DemoUpstream>,
    bundle: Option<Bundle>,
    machine: Option<Running>,
    splices: Option<Splices>,
    refresher: Option<Refresher>,
    desk: Option<Desk>,
}

/// One launch under way.
struct Underway<'a> {
    dir: BottleDir,
    metadata: Metadata,
    journal: Journal,
    progress: Progress,
    up: watch::Sender<Option<Up>>,
    /// The agent may have worked: its plan, and what of the project it was given.
    worked: Option<(Arc<LaunchPlan>, Option<Baseline>)>,
    launch: &'a Launch<'a>,
}

/// Unwinds the journal when a panic gets past the orderly teardown.
struct LastResort(PathBuf);

impl Drop for LastResort {
    fn drop(&mut self) {
        if self.0.exists() {
            let _ = Journal::unwind(&self.0);
        }
    }
}

impl Launch<'_> {
    /// Brings the bottle up, runs the agent, tears everything down; returns the agent's exit code.
    ///
    /// # Errors
    /// Every failure comes after a full unwind. `SelfTest` when the bottle was not shut in;
    /// `Signal` when one ended it.
    pub async fn run<E: Engine>(&self, plan: LaunchPlan, engine: &E) -> Result<u8> {
        provider::supported(&plan)?;
        keep_memory_private()?;
        let gate = gate::policy(&plan)?;
        let skills = provision::skills::pack(&plan)?;
        self.closure.verify(
            self.closure.image(plan.image.name.as_str())?,
            engine.name(),
            &self.roots.verified(),
        )?;
        let dir = self.roots.bottle(plan.slug.as_str())?;
        let _lock = dir.lock()?;
        // First: a journal that cannot be undone keeps nobody from it.
        deploy_key::revoke_left(&dir).await;
        if dir.journal().exists() {
            Journal::unwind(&dir.journal())?;
        }
        dir.require_space()?;
        // Caught from here on: whatever is interrupted is unwound.
        let mut signals = Signals::catch()?;
        let stop = Arc::new(Notify::new());
        let metadata =
            Metadata::starting(&dir, plan.agent.as_str(), engine.name(), &plan.policy_digest);
        let (up, news) = watch::channel(None);
        let journal = Journal::begin(dir.journal())?;
        let _last_resort = LastResort(dir.journal());
        let progress = Progress::new(self.quiet);
        let mut underway =
            Underway { dir, metadata, journal, progress, up, worked: None, launch: self };
        let mut parts = Parts::default();
        let outcome = tokio::select! {
            ran = underway.bring_up((plan, gate, skills), engine, &mut parts, (news, Arc::clone(&stop))) => ran,
            signal = signals.next() => Err(Error::new(Kind::Signal(signal), format!("ended by signal {signal}"))),
            () = stop.notified() => Err(Error::new(Kind::Signal(nix::libc::SIGTERM), "stopped by `bottle stop`")),
        };
        underway.tear_down(parts, outcome).await
    }
}

impl Underway<'_> {
    async fn bring_up<E: Engine>(
        &mut self,
        (mut plan, mut gate, skills): (LaunchPlan, Option<GatePolicy>, Option<Vec<u8>>),
        engine: &E,
        parts: &mut Parts,
        (news, stop): (watch::Receiver<Option<Up>>, Arc<Notify>),
    ) -> Result<u8> {
        let Launch { closure, given, .. } = self.launch;
        self.dir.write_metadata(&self.metadata)?;
        self.journal.record(&Step::RuntimeDir { path: self.dir.runtime().to_owned() })?;
        crate::state::private_dir(self.dir.runtime())?;
        let (asked, decisions) = tokio::sync::mpsc::channel(16);
        tokio::spawn(Control::listen(&self.dir, news, stop, asked)?.serve());

        self.progress.step("resolving tokens");
        let tokens = tokens::resolve(&plan, &closure.bundle.binary.path).await?;
        remember(&self.dir, &plan, given)?;
        // git-gate's alone: egress could do nothing with them but lose them.
        let mut keys = gate::attest_keys(&plan)?;
        if plan.git.iter().any(|git| git.deploy_key.is_some()) {
            self.progress.step("registering deploy keys");
            keys.extend(deploy_key::register(&plan, &self.dir, &closure.bundle.binary.path).await?);
        }

        self.progress.step("starting the bundle");
        if provider::needs_demo_upstream(&plan) {
            let token = demo_token(&tokens)?;
            parts.upstream = Some(
                DemoUpstream::start(
                    closure,
                    &self.dir,
                    token,
                    (&mut plan.policy, gate.as_mut()),
                    &mut self.journal,
                )
                .await?,
            );
        }
        let authority = Authority::new(&format!("bottle {}", self.dir.slug()))?;
        if breaks("open-egress") {
            open_egress(&mut plan);
        }
        let egress = EgressInput {
            ca_cert: authority.certificate.clone(),
            ca_key: authority.key.clone(),
            tokens: tokens.clone(),
            refreshable: crate::credentials::refresh::refreshable(&plan),
        };
        let gate = gate
            .map(|policy| {
                gate::spec(
                    policy,
                    tokens.iter().chain(keys.iter().map(|(n, v)| (n, v))),
                    [("BOTTLE_CA_KEY", &authority.key)],
                )
            })
            .transpose()?;
        let spec = BundleSpec {
            dir: &self.dir,
            policy: &plan.policy,
            chain: plan.bundle_egress,
            egress,
            gate,
            supervise: plan.supervise,
        };
        let bundle =
            parts.bundle.insert(HostProcesses(closure).spawn(spec, &mut self.journal).await?);

        self.progress.step(&format!("booting {} on {}", plan.image.name, plan.engine.reason));
        let spec = self.launch.machine_spec(&plan, &self.dir)?;
        let machine = parts.machine.insert(engine.start(&spec, &mut self.journal).await?);
        bundle.ready().await?;
        parts.refresher = bundle.take_pipe("egress").map(|pipe| {
            Refresher::start(pipe, (&plan, &tokens), &closure.bundle.binary.path, say::interject)
        });
        let plan = Arc::new(plan.clone());
        if let Some(pipe) = bundle.take_pipe("supervise") {
            parts.desk = Some(Desk::start(pipe, &self.dir, Arc::clone(&plan), decisions)?);
        }
        let session = machine.session.clone();
        parts.splices = Some(Splices::serve(machine.take_incoming()?, self.dir.clone()));
        in_time("set up", provision::configure(&session, &plan, &authority.certificate))
            .await
            .map_err(|e| machine.explain(e))?;

        self.progress.step("self-test");
        let canary = Canary::new()?;
        let mut env = selftest::agent_environment(&plan);
        if breaks("leak-token") {
            env.extend(
                tokens.iter().map(|(name, value)| (name.to_string(), value.expose().to_owned())),
            );
        }
        let secrets: Vec<&Secret> = tokens
            .values()
            .chain(keys.iter().map(|(_, key)| key))
            .chain([&authority.key])
            .collect();
        let proofs = selftest::run(&session, &plan, &env, &canary, &secrets).await?;
        drop((tokens, keys));
        drop(authority);

        self.progress.step("provisioning");
        let more = provision::Given { skills: skills.as_deref(), resumed: self.launch.resume };
        in_time("provisioned", provision::provision(&session, &plan, more)).await?;
        let baseline = self.workspace(&session, &plan).await?;
        self.worked = Some((Arc::clone(&plan), baseline));
        let request = agent(&plan, env.clone(), &canary)?;
        let dialogs = provider::dialogs(plan.provider);
        self.up.send_replace(Some(Up { session: session.clone(), plan, env }));
        self.dir.write_metadata(&Metadata { phase: Phase::Running, ..self.metadata.clone() })?;
        self.progress.done(&format!("{} is up, shut in by {proofs} proofs", self.dir.slug()));

        let tty = request.tty.is_some();
        let open = HostOpen::Exec(request);
        let opening = async {
            session.open(&open).await.context(Kind::Engine, || "the agent cannot be started".into())
        };
        let stream = in_time("asked to run the agent", opening).await?;
        tokio::select! {
            code = attach(stream, tty, true, dialogs) => code,
            ended = machine.vmm.ended() => Err(machine_lost(&ended)),
            failed = bundle.lost() => Err(failed),
        }
    }

    /// Gives the agent its project; what it was given.
    async fn workspace(
        &self,
        session: &Session<HostOpen>,
        plan: &LaunchPlan,
    ) -> Result<Option<Baseline>> {
        let file = self.dir.workspace();
        if self.launch.resume {
            // What the launch before left is on the disk, and newer than what was saved of it.
            let _ = std::fs::remove_file(self.dir.work());
            return Ok(Baseline::read(&file, self.dir.slug()).ok());
        }
        let _ = std::fs::remove_file(&file);
        if plan.workspace.mode == WorkspaceMode::Clone {
            self.progress.step("cloning the workspace");
            work::clone(session, plan).await?;
        }
        let Some(snapshot) = &self.launch.workspace else { return Ok(None) };
        self.progress.step(&format!("copying the workspace ({})", snapshot.summary()));
        let (baseline, report) = work::put(session, plan, snapshot).await?;
        tracing::debug!(files = report.files, bytes = report.bytes, "copied");
        baseline.write(&file)?;
        Ok(Some(baseline))
    }

    /// At an orderly end: keeps the agent's work, and its disk, and says so.
    async fn keep(&self, machine: &mut Running) {
        let Some((plan, baseline)) = &self.worked else { return };
        let slug = self.dir.slug();
        if let Some(baseline) = baseline {
            match work::save(&machine.session, plan, baseline, &self.dir.work()).await {
                Ok(()) => match unpulled(&self.dir.work(), baseline) {
                    Ok(0) => drop(std::fs::remove_file(self.dir.work())),
                    Ok(n) => say(format_args!(
                        "bottle: {n} file{} changed in the bottle; nothing is lost: bottle diff {slug}, bottle pull {slug}",
                        if n == 1 { "" } else { "s" }
                    )),
                    Err(e) => say(format_args!("bottle: {e}")),
                },
                Err(e) => {
                    let _ = std::fs::remove_file(self.dir.work());
                    say(format_args!(
                        "bottle: {e}; what was not pulled is lost{}",
                        if self.launch.keep { ", but for the disk" } else { "" }
                    ));
                }
            }
        }
        if !self.launch.keep {
            return;
        }
        let down = async {
            machine
                .session
                .shutdown()
                .await
                .context(Kind::Engine, || "the guest does not shut down".into())?;
            machine.vmm.ended().await;
            Ok::<(), Error>(())
        };
        let saved = match tokio::time::timeout(SHUTDOWN_DEADLINE, down).await {
            Ok(Ok(())) => std::fs::rename(self.dir.disk(), self.dir.saved())
                .context(Kind::Config, || "the disk cannot be kept".into()),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::new(Kind::Engine, "the guest does not shut down")),
        };
        match saved {
            Ok(()) => say(format_args!(
                "bottle: {slug} is stopped; bottle resume {slug} goes on with it, bottle rm {slug} forgets it"
            )),
            Err(e) => say(format_args!("bottle: {e}, so {slug} cannot be resumed")),
        }
    }

    /// Undoes everything. Whatever goes wrong here does not hide how the launch itself ended.
    async fn tear_down(self, mut parts: Parts, outcome: Result<u8>) -> Result<u8> {
        if let Some(machine) = &mut parts.machine {
            self.keep(machine).await;
        }
        if let Some(splices) = parts.splices.take() {
            splices.shut().await;
        }
        if let Some(desk) = parts.desk.take() {
            desk.close().await;
        }
        let unwound = Journal::unwind(&self.dir.journal());
        // Ended is not gone: the kernel may still be closing their files.
        if let Some(machine) = &mut parts.machine {
            machine.vmm.kill().await;
        }
        if let Some(bundle) = &mut parts.bundle {
            bundle.gone().await;
        }
        // Last and always. The sidecar that used the keys is gone by now.
        let revoked = deploy_key::revoke(&self.dir, self.metadata.started_ms).await.map(drop);
        if let Err(e) = self
            .dir
            .write_metadata(&self.metadata.ended(Phase::Exited, outcome.as_ref().ok().copied()))
        {
            say(format_args!("bottle: {e}"));
        }
        let unwound = match (unwound, revoked) {
            (Err(a), Err(b)) => {
                Err(Error::new(a.kind(), format!("{a}; {b}")).hint("bottle cleanup"))
            }
            (unwound, revoked) => unwound.and(revoked),
        };
        match (outcome, unwound) {
            (outcome, Ok(())) => outcome,
            (Ok(_), Err(unwind)) => Err(unwind),
            (Err(outcome), Err(unwind)) => {
                Err(Error::new(outcome.kind(), format!("{outcome}; and then {unwind}"))
                    .hint("bottle cleanup"))
            }
        }
    }
}

/// How many files of the tar `work` are not as they went in.
fn unpulled(work: &std::path::Path, baseline: &Baseline) -> Result<usize> {
    let what = || format!("cannot read {}", work.display());
    let into = tempfile::tempdir_in(work.parent().unwrap_or(std::path::Path::new(".")))
        .context(Kind::Config, what)?;
    let refused = workspace::unpack(
        std::fs::File::open(work).context(Kind::Config, what)?,
        into.path(),
        Guards::ON,
    )?;
    let found = workspace::changes(into.path(), baseline, refused, Guards::ON)?;
    Ok(found.list.len() + found.refused.len())
}

/// Waits at most 60 s for the guest: it is hostile, and may just not answer.
async fn in_time<T>(what: &str, doing: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || {
        Error::new(Kind::Engine, format!("the guest did not answer when it was {what}"))
            .hint("bottle doctor")
    };
    tokio::time::timeout(GUEST_DEADLINE, doing).await.map_err(|_| late())?
}

/// Keeps the plan for the next launch's preflight, without what was given for this one only.
fn remember(dir: &BottleDir, plan: &LaunchPlan, given: &BTreeSet<EnvName>) -> Result<()> {
    let mut remembered = plan.redacted();
    remembered.env.retain(|name, _| !given.contains(name));
    let json = serde_json::to_vec_pretty(&remembered)
        .context(Kind::Internal, || "cannot write the plan".into())?;
    write_private(&dir.plan(), &json)
}

/// For the tests: a policy that lets the self-test's denied host through.
fn open_egress(plan: &mut LaunchPlan) {
    let routes = &mut plan.policy.routes;
    let open = routes
        .first()
        .cloned()
        .and_then(|r| Some(Route { host: selftest::DENIED_HOST.parse().ok()?, ..r }));
    routes.extend(open.map(|r| Route { name: "sabotage".into(), ..r }));
}

impl Launch<'_> {
    fn machine_spec<'s>(
        &'s self,
        plan: &'s LaunchPlan,
        dir: &BottleDir,
    ) -> Result<MachineSpec<'s>> {
        Ok(MachineSpec {
            slug: plan.slug.as_str(),
            image: self.closure.image(plan.image.name.as_str())?.of(&plan.engine.name)?,
            disk: dir.disk(),
            disk_bytes: plan.resources.disk.get(),
            saved: self.resume.then(|| dir.saved()),
            cpus: u32::from(plan.resources.cpus),
            memory_bytes: plan.resources.memory.get(),
            log: dir.log("engine"),
            channel: dir.daemon_socket("channel"),
            unpacked: self.roots.unpacked(),
        })
    }
}

/// No core dump and no debugger of another process: token values pass through this one.
fn keep_memory_private() -> Result<()> {
    let what = || "cannot keep this process's memory private".to_owned();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
        .context(Kind::Internal, what)?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false).context(Kind::Internal, what)?;
    Ok(())
}

fn machine_lost(how: &str) -> Error {
    Error::new(Kind::Engine, format!("the agent's machine is lost: {how}")).hint("bottle doctor")
}

fn demo_token(tokens: &BTreeMap<TokenName, Secret>) -> Result<&Secret> {
    tokens
        .iter()
        .find_map(|(name, value)| (name.as_str() == DEMO_TOKEN).then_some(value))
        .ok_or_else(|| Error::new(Kind::Internal, "the demo's token is missing"))
}

/// The agent's process.
fn agent(plan: &LaunchPlan, env: BTreeMap<String, String>, canary: &Canary) -> Result<ExecRequest> {
    let image = &plan.image.facts;
    let mut argv = plan.command.clone();
    if plan.provider == Provider::Demo && argv == DEMO_COMMAND {
        let host_kernel = nix::sys::utsname::uname()
            .map(|u| u.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        argv = vec![SELF.to_owned(), "demo".into()];
        argv.extend([
            "--host-kernel".into(),
            host_kernel,
            "--canary".into(),
            canary.port()?.to_string(),
        ]);
        argv.extend([
            "--allowed-host".into(),
            DEMO_HOST.into(),
            "--denied-host".into(),
            "example.com".into(),
        ]);
        argv.extend(["--repository".into(), DEMO_REPOSITORY.into()]);
    }
    let tty = terminal::interactive().then(terminal::size);
    Ok(ExecRequest {
        argv,
        env,
        cwd: Some(image.workdir.clone()),
        uid: image.uid,
        gid: image.gid,
        tty,
        stdin: true,
    })
}
