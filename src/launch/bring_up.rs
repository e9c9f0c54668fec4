//! The ordered bring-up of a bottle. Each step is in the journal before it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bottle_channel::{ExecRequest, HostOpen, Session};
use bottle_policy::{EgressInput, GatePolicy, Policy, Route, Secret, TokenName};
use tokio::sync::{Notify, mpsc, watch};

use super::attach::attach;
use super::clock::ClockKeeper;
use super::control::{Control, RunningGuest};
use super::demo_upstream::DemoUpstream;
use super::endpoints::Splices;
use super::selftest::{self, Canary};
use super::state::{Components, Launch, LaunchState};
use crate::bundle::{Bundle, BundleRuntime, BundleSpec, HostProcesses};
use crate::credentials::refresh::{Refresher, refreshable};
use crate::credentials::{deploy_key, git, tokens, weak};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fault_injection::breaks;
use crate::host::fs::{private_dir, write_private};
use crate::host::{stderr, terminal};
use crate::live_policy::{LivePolicies, follow_gate};
use crate::machine::{Engine, MachineSpec, Running};
use crate::manifest::WorkspaceMode;
use crate::pki::Authority;
use crate::plan::{Daemon, LaunchPlan};
use crate::provider::{DEMO_TOKEN, LiveFacts};
use crate::provision;
use crate::state::{BottleDir, Metadata, Phase, Step};
use crate::supervise::{DecisionRequest, ProposalBroker};
use crate::values::{EnvName, neutral};
use crate::workspace::{Baseline, transfer};

/// Longest time for any single answer of a guest before its agent runs.
const GUEST_DEADLINE: Duration = Duration::from_secs(60);
/// Decisions on proposals that wait for the broker, at most.
const MAX_WAITING_DECISIONS: usize = 16;

/// The secrets of a launch. They are wiped when they are dropped, which is before the agent runs.
struct Secrets {
    tokens: BTreeMap<TokenName, Secret>,
    /// Deploy keys and attesting keys: only git-gate gets these.
    git_keys: Vec<(TokenName, Secret)>,
    authority: Authority,
}

impl Secrets {
    /// Every value that must never be in the guest.
    fn values(&self) -> Vec<&Secret> {
        let keys = self.git_keys.iter().map(|(_, key)| key);
        self.tokens.values().chain(keys).chain([&self.authority.key]).collect()
    }
}

impl LaunchState<'_> {
    /// All steps up to the agent's end; returns its exit code.
    pub(super) async fn bring_up<E: Engine>(
        &mut self,
        engine: &E,
        policies: LivePolicies,
        skills: Option<Vec<u8>>,
        (guest, stop): (watch::Receiver<Option<RunningGuest>>, Arc<Notify>),
    ) -> Result<u8> {
        let decisions = self.open_control(guest, stop)?;
        let secrets = self.resolve_secrets().await?;
        self.start_bundle(policies, &secrets).await?;
        self.boot(engine).await?;
        self.connect(&secrets, decisions).await?;
        let canary = Canary::new()?;
        let (env, proofs) = self.self_test(&secrets, &canary).await?;
        drop(secrets);
        self.provision(skills).await?;
        self.run_agent(env, &canary, proofs).await
    }

    /// Makes the bottle's runtime directory and listens for other `bottle` commands.
    fn open_control(
        &mut self,
        guest: watch::Receiver<Option<RunningGuest>>,
        stop: Arc<Notify>,
    ) -> Result<mpsc::Receiver<DecisionRequest>> {
        self.dir.write_metadata(&self.metadata)?;
        self.journal.record(&Step::RuntimeDir { path: self.dir.runtime().to_owned() })?;
        private_dir(self.dir.runtime())?;
        let (requests, decisions) = mpsc::channel(MAX_WAITING_DECISIONS);
        let policies = Arc::clone(&self.policies);
        tokio::spawn(Control::listen(&self.dir, guest, stop, requests, policies)?.serve());
        Ok(decisions)
    }

    async fn resolve_secrets(&self) -> Result<Secrets> {
        let program = self.launch.closure.bundle.binary.path.as_std_path();
        self.progress.step("resolving tokens");
        let tokens = tokens::resolve(&self.plan, program).await?;
        weak::warnings(&self.plan, &tokens).iter().for_each(|w| self.progress.warn(w));
        remember(&self.dir, &self.plan, &self.launch.given)?;
        let mut git_keys = git::attest_keys(&self.plan)?;
        if self.plan.git.iter().any(|git| git.deploy_key.is_some()) {
            self.progress.step("registering deploy keys");
            git_keys.extend(deploy_key::register(&self.plan, &self.dir, program).await?);
        }
        let authority = Authority::new(&format!("bottle {}", self.dir.slug()))?;
        Ok(Secrets { tokens, git_keys, authority })
    }

    async fn start_bundle(&mut self, mut policies: LivePolicies, secrets: &Secrets) -> Result<()> {
        let closure = self.launch.closure;
        self.progress.step("starting the bundle");
        if self.plan.provider.needs_demo_upstream {
            let token = demo_token(&secrets.tokens)?;
            let upstream =
                DemoUpstream::start(closure, &self.dir, token, &mut policies, &mut self.journal);
            self.components.upstream = Some(upstream.await?);
        }
        if breaks("open-egress") {
            open_egress(&mut policies);
        }
        let egress = EgressInput {
            ca_cert: secrets.authority.certificate.clone(),
            ca_key: secrets.authority.key.clone(),
            tokens: secrets.tokens.clone(),
            refreshable: refreshable(&self.plan),
        };
        let gate = policies.git.map(|policy| {
            let keys = secrets.git_keys.iter().map(|(name, value)| (name, value));
            let only_looked_for = [("BOTTLE_CA_KEY", &secrets.authority.key)];
            git::spec(policy, secrets.tokens.iter().chain(keys), only_looked_for)
        });
        let spec = BundleSpec {
            dir: &self.dir,
            policy: &policies.routes,
            chain: self.plan.bundle_egress,
            egress,
            gate: gate.transpose()?,
            supervise: self.plan.supervise,
        };
        let bundle = HostProcesses(closure).spawn(spec, &mut self.journal).await?;
        self.components.bundle = Some(bundle);
        Ok(())
    }

    async fn boot<E: Engine>(&mut self, engine: &E) -> Result<()> {
        let (image, reason) = (&self.plan.image.name, &self.plan.engine.reason);
        self.progress.step(&format!("booting {image} on {reason}"));
        let spec = machine_spec(self.launch, &self.plan, &self.dir)?;
        self.components.machine = Some(engine.start(&spec, &mut self.journal).await?);
        Ok(())
    }

    /// Connects guest, daemons and orchestrator with each other, and configures the guest.
    async fn connect(
        &mut self,
        secrets: &Secrets,
        decisions: mpsc::Receiver<DecisionRequest>,
    ) -> Result<()> {
        let (machine, bundle) = started(&mut self.components)?;
        bundle.ready().await?;
        let refresher = bundle.take_control_pipe(Daemon::Egress.as_str()).map(|pipe| {
            let program = self.launch.closure.bundle.binary.path.as_std_path();
            let (reloads, tokens) =
                (self.policies.newest::<Policy>(), (&*self.plan, &secrets.tokens));
            Refresher::start(pipe, reloads, tokens, program, stderr::note_in_raw_mode)
        });
        if let Some(pipe) = bundle.take_control_pipe(Daemon::GitGate.as_str()) {
            tokio::spawn(follow_gate(pipe, self.policies.newest::<GatePolicy>()));
        }
        let broker = bundle.take_control_pipe(Daemon::Supervise.as_str()).map(|pipe| {
            let (plan, policies) = (Arc::clone(&self.plan), Arc::clone(&self.policies));
            ProposalBroker::start(pipe, &self.dir, plan, policies, decisions)
        });
        let session = machine.session.clone();
        let splices = Splices::serve(machine.take_incoming()?, self.dir.clone());
        self.components.refresher = refresher;
        self.components.broker = broker.transpose()?;
        self.components.splices = Some(splices);
        let certificate = &secrets.authority.certificate;
        let configured = provision::configure(&session, &self.plan, certificate);
        let (machine, _) = started(&mut self.components)?;
        in_time("set up", configured).await.map_err(|e| machine.explain(e))?;
        self.components.clock = Some(ClockKeeper::start(session));
        Ok(())
    }

    /// Proves from inside the guest that it is shut in; returns the agent's environment and the
    /// number of proofs.
    async fn self_test(
        &mut self,
        secrets: &Secrets,
        canary: &Canary,
    ) -> Result<(BTreeMap<String, String>, usize)> {
        self.progress.step("self-test");
        let mut env = selftest::agent_environment(&self.plan);
        if breaks("leak-token") {
            let leak = |(name, value): (&TokenName, &Secret)| {
                (name.to_string(), value.expose().to_owned())
            };
            env.extend(secrets.tokens.iter().map(leak));
        }
        let (machine, _) = started(&mut self.components)?;
        let session = &machine.session;
        let proofs = selftest::run(session, &self.plan, &env, canary, &secrets.values()).await?;
        Ok((env, proofs))
    }

    async fn provision(&mut self, skills: Option<Vec<u8>>) -> Result<()> {
        self.progress.step("provisioning");
        let session = started(&mut self.components)?.0.session.clone();
        let extras = provision::Extras { skills: skills.as_deref(), resumed: self.launch.resume };
        in_time("provisioned", provision::provision(&session, &self.plan, extras)).await?;
        self.baseline = self.fill_workspace(&session).await?;
        self.has_workspace = true;
        Ok(())
    }

    /// Puts the project into the guest, and returns what was put there.
    async fn fill_workspace(&self, session: &Session<HostOpen>) -> Result<Option<Baseline>> {
        let plan = &self.plan;
        let file = self.dir.workspace();
        if self.launch.resume {
            // The disk has the work of the launch before; the saved copy of it is older.
            let _ = std::fs::remove_file(self.dir.unpulled_tar());
            let _ = std::fs::remove_file(self.dir.unsaved());
            return Ok(Baseline::read(&file, self.dir.slug()).ok());
        }
        let _ = std::fs::remove_file(&file);
        if plan.workspace.mode == WorkspaceMode::Clone {
            self.progress.step("cloning the workspace");
            transfer::clone(session, plan).await?;
        }
        let Some(snapshot) = &self.launch.workspace else { return Ok(None) };
        self.progress.step(&format!("copying the workspace ({})", snapshot.summary()));
        let (baseline, report) = transfer::copy_in(session, plan, snapshot).await?;
        tracing::debug!(files = report.files, bytes = report.bytes, "copied");
        let missing = snapshot.missing_from(&baseline);
        if !missing.is_empty() {
            let names: Vec<String> =
                missing.iter().map(|path| neutral(&path.to_string_lossy())).collect();
            let what = "not copied, because it is gone or unreadable by now";
            self.progress.warn(&format!("{what}: {}", crate::humanize::some_of(&names)));
        }
        baseline.write(&file)?;
        Ok(Some(baseline))
    }

    /// Runs the agent until it ends, or what it needs does.
    async fn run_agent(
        &mut self,
        env: BTreeMap<String, String>,
        canary: &Canary,
        proofs: usize,
    ) -> Result<u8> {
        let (machine, bundle) = started(&mut self.components)?;
        let session = machine.session.clone();
        let request = agent_request(&self.plan, env.clone(), canary)?;
        let plan = Arc::clone(&self.plan);
        self.running_guest.send_replace(Some(RunningGuest { session: session.clone(), plan, env }));
        self.dir.write_metadata(&Metadata { phase: Phase::Running, ..self.metadata.clone() })?;
        self.progress.done(&format!("{} is up, shut in by {proofs} proofs", self.dir.slug()));

        let tty = request.tty.is_some();
        let open = HostOpen::Exec(request);
        let opening = async {
            session
                .open(&open)
                .await
                .context(ErrorKind::Guest, || "the agent cannot be started".into())
        };
        let stream = in_time("asked to run the agent", opening).await?;
        tokio::select! {
            code = attach(stream, tty, true, self.plan.provider.first_run_prompts) => code,
            ended = machine.vmm.ended() => Err(machine_lost(&ended)),
            failed = bundle.lost() => Err(failed),
        }
    }
}

/// The machine and the bundle, which run from an early step on.
fn started(components: &mut Components) -> Result<(&mut Running, &mut Bundle)> {
    match components {
        Components { machine: Some(machine), bundle: Some(bundle), .. } => Ok((machine, bundle)),
        _ => Err(Error::new(ErrorKind::Internal, "the machine or the bundle was not started")),
    }
}

/// Waits at most 60 s for the guest, which is hostile and may never answer.
async fn in_time<T>(what: &str, doing: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || {
        Error::new(ErrorKind::Engine, format!("the guest did not answer when it was {what}"))
            .hint("bottle doctor")
    };
    tokio::time::timeout(GUEST_DEADLINE, doing).await.map_err(|_| late())?
}

/// Saves the plan for the next launch's preflight, without values that were given for this launch
/// only.
fn remember(dir: &BottleDir, plan: &LaunchPlan, given: &BTreeSet<EnvName>) -> Result<()> {
    let mut remembered = plan.redacted();
    remembered.env.retain(|name, _| !given.contains(name));
    let json = serde_json::to_vec_pretty(&remembered)
        .context(ErrorKind::Internal, || "cannot write the plan".into())?;
    write_private(dir.plan(), &json)
}

/// Fault injection: a policy that lets the self-test's denied host through.
fn open_egress(policies: &mut LivePolicies) {
    let routes = &mut policies.routes.routes;
    let open = routes
        .first()
        .cloned()
        .and_then(|r| Some(Route { host: selftest::DENIED_HOST.parse().ok()?, ..r }));
    routes.extend(open.map(|r| Route { name: "sabotage".into(), ..r }));
}

fn machine_spec<'s>(
    launch: &'s Launch<'_>,
    plan: &'s LaunchPlan,
    dir: &BottleDir,
) -> Result<MachineSpec<'s>> {
    Ok(MachineSpec {
        slug: plan.slug.as_str(),
        image: launch.closure.image(plan.image.name.as_str())?.of(&plan.engine.name)?,
        disk: dir.disk(),
        disk_bytes: plan.resources.disk.get(),
        resumable_disk: launch.resume.then(|| dir.resumable_disk()),
        cpus: u32::from(plan.resources.cpus),
        memory_bytes: plan.resources.memory.get(),
        log: dir.log("engine"),
        channel: dir.daemon_socket("channel"),
        image_cache: launch.roots.image_cache(),
    })
}

fn machine_lost(how: &str) -> Error {
    Error::new(ErrorKind::Engine, format!("the agent's machine is lost: {how}"))
        .hint("bottle doctor")
}

fn demo_token(tokens: &BTreeMap<TokenName, Secret>) -> Result<&Secret> {
    tokens
        .iter()
        .find_map(|(name, value)| (name.as_str() == DEMO_TOKEN).then_some(value))
        .ok_or_else(|| Error::new(ErrorKind::Internal, "the demo's token is missing"))
}

/// The agent's process.
fn agent_request(
    plan: &LaunchPlan,
    env: BTreeMap<String, String>,
    canary: &Canary,
) -> Result<ExecRequest> {
    let image = &plan.image.facts.guest;
    let argv = match plan.provider.live_command.filter(|_| !plan.given.command) {
        Some(live_command) => live_command(&LiveFacts {
            host_kernel: nix::sys::utsname::uname()
                .map(|u| u.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            canary_port: canary.port()?,
        }),
        None => plan.command.clone(),
    };
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
