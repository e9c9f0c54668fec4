//! The ordered bring-up of a bottle, its journal, and its teardown in reverse.

mod attach;
mod control;
mod endpoints;
mod progress;
mod selftest;
mod signals;
mod terminal;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bottle_channel::{ExecRequest, HostOpen, SELF};
use bottle_policy::{EgressInput, Route, Secret, TokenName};
use tokio::sync::Notify;

pub use attach::attach;
pub use control::{Request, connect, stop};
pub use terminal::{interactive, size};

use crate::bundle::{Bundle, BundleRuntime, BundleSpec, HostProcesses};
use crate::closure::Closure;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::{Engine, MachineSpec, Running};
use crate::manifest::{EnvName, Provider};
use crate::pki::Authority;
use crate::plan::{DEMO_COMMAND, DEMO_HOST, DEMO_TOKEN, LaunchPlan};
use crate::provider::{self, demo::DemoUpstream};
use crate::provision;
use crate::sabotage::breaks;
use crate::state::{BottleDir, Journal, Metadata, Phase, Roots, Step, write_private};
use progress::Progress;
use selftest::Canary;
use signals::Signals;

/// What a launch needs besides its plan.
pub struct Launch<'a> {
    /// Where bottles live.
    pub roots: &'a Roots,
    /// What they are made of.
    pub closure: &'a Closure,
    /// Guest variables that the operator gave for this launch: their values stay out of every file.
    pub given: BTreeSet<EnvName>,
    /// No progress lines.
    pub quiet: bool,
}

/// What lives as long as the bottle; dropped after the journal was unwound.
#[derive(Default)]
struct Parts {
    upstream: Option<DemoUpstream>,
    bundle: Option<Bundle>,
    machine: Option<Running>,
}

impl Launch<'_> {
    /// Brings the bottle up, runs the agent, tears everything down; returns the agent's exit code.
    ///
    /// # Errors
    /// Every failure comes after a full unwind. `SelfTest` when the bottle was not shut in; `Signal` when one ended it.
    pub async fn run<E: Engine>(&self, mut plan: LaunchPlan, engine: &E) -> Result<u8> {
        provider::supported(&plan)?;
        keep_memory_private()?;
        self.closure.verify(self.closure.image(plan.image.name.as_str())?, &self.roots.verified())?;
        let dir = self.roots.bottle(plan.slug.as_str())?;
        let _lock = dir.lock()?;
        if dir.journal().exists() {
            Journal::unwind(&dir.journal())?;
        }
        // Caught from here on: whatever is interrupted is unwound.
        let mut signals = Signals::catch()?;
        let stop = Arc::new(Notify::new());
        let metadata = Metadata::starting(dir.slug(), plan.agent.as_str(), engine.name(), &plan.policy_digest);
        let mut journal = Journal::begin(dir.journal())?;
        let mut parts = Parts::default();
        let outcome = tokio::select! {
            ran = self.bring_up(&mut plan, engine, &dir, &metadata, &mut journal, &mut parts, &stop) => ran,
            signal = signals.next() => Err(Error::new(Kind::Signal(signal), format!("ended by signal {signal}"))),
            () = stop.notified() => Err(Error::new(Kind::Signal(nix::libc::SIGTERM), "stopped by `bottle stop`")),
        };
        let unwound = Journal::unwind(&dir.journal());
        drop(parts);
        dir.write_metadata(&metadata.ended(Phase::Exited, outcome.as_ref().ok().copied()))?;
        match (outcome, unwound) {
            (outcome, Ok(())) => outcome,
            (Ok(_), Err(unwind)) => Err(unwind),
            (Err(outcome), Err(unwind)) => Err(Error::new(outcome.kind(), format!("{outcome}; and then {unwind}")).hint("bottle cleanup")),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts outlive this future, so that an interrupt can unwind them")]
    async fn bring_up<E: Engine>(
        &self,
        plan: &mut LaunchPlan,
        engine: &E,
        dir: &BottleDir,
        metadata: &Metadata,
        journal: &mut Journal,
        parts: &mut Parts,
        stop: &Arc<Notify>,
    ) -> Result<u8> {
        let progress = Progress::new(self.quiet);
        progress.step("resolving tokens");
        let tokens = tokens::resolve(plan).await?;
        let mut remembered = plan.redacted();
        remembered.env.retain(|name, _| !self.given.contains(name));
        let json = serde_json::to_vec_pretty(&remembered).context(Kind::Internal, || "cannot write the plan".into())?;
        write_private(&dir.plan(), &json)?;
        dir.write_metadata(metadata)?;
        journal.record(&Step::RuntimeDir { path: dir.runtime().to_owned() })?;
        crate::state::private_dir(dir.runtime())?;

        progress.step("starting the bundle");
        if provider::needs_demo_upstream(plan) {
            let token = demo_token(&tokens)?;
            parts.upstream = Some(DemoUpstream::start(self.closure, dir, token, &mut plan.policy, journal).await?);
        }
        let authority = Authority::new(&format!("bottle {}", dir.slug()))?;
        let egress = EgressInput { ca_cert: authority.certificate.clone(), ca_key: authority.key.clone(), tokens: tokens.clone() };
        if breaks("open-egress") {
            let routes = &mut plan.policy.routes;
            let open = routes.first().cloned().and_then(|r| Some(Route { host: selftest::DENIED_HOST.parse().ok()?, ..r }));
            routes.extend(open.map(|r| Route { name: "sabotage".into(), ..r }));
        }
        let bundle = HostProcesses(self.closure).spawn(BundleSpec { dir, policy: &plan.policy, egress }, journal).await?;
        let bundle = parts.bundle.insert(bundle);

        progress.step(&format!("booting {} on {}", plan.image.name, plan.engine.reason));
        let machine = engine.start(&self.machine_spec(plan, dir)?, journal).await?;
        bundle.ready().await?;
        let plan = Arc::new(plan.clone());
        let machine = parts.machine.insert(machine);
        let (session, incoming) = (machine.session.clone(), machine.take_incoming()?);
        tokio::spawn(endpoints::serve(incoming, dir.clone()));
        provision::configure(&session, &plan).await.map_err(|e| machine.explain(e))?;

        progress.step("self-test");
        let canary = Canary::new()?;
        let mut env = selftest::agent_environment(&plan);
        if breaks("leak-token") {
            env.extend(tokens.iter().map(|(name, value)| (name.to_string(), value.expose().to_owned())));
        }
        let secrets: Vec<&Secret> = tokens.values().chain([&authority.key]).collect();
        let proofs = selftest::run(&session, &plan, &env, &canary, &secrets).await?;
        drop(tokens);
        let Authority { certificate, .. } = authority;

        progress.step("provisioning");
        provision::provision(&session, &plan, &certificate).await?;
        let control = control::Control::listen(dir, session.clone(), Arc::clone(&plan), env.clone(), Arc::clone(stop))?;
        tokio::spawn(control.serve());
        dir.write_metadata(&Metadata { phase: Phase::Running, ..metadata.clone() })?;
        progress.done(&format!("{} is up, shut in by {proofs} proofs", dir.slug()));

        let request = agent(&plan, env, &canary)?;
        let tty = request.tty.is_some();
        let stream = session.open(&HostOpen::Exec(request)).await.context(Kind::Engine, || "the agent cannot be started".into())?;
        tokio::select! {
            code = attach(stream, tty, true) => code,
            ended = machine.vmm.ended() => Err(machine_lost(&ended)),
            failed = bundle.lost() => Err(failed),
        }
    }

    fn machine_spec<'s>(&'s self, plan: &'s LaunchPlan, dir: &BottleDir) -> Result<MachineSpec<'s>> {
        Ok(MachineSpec {
            slug: plan.slug.as_str(),
            image: self.closure.image(plan.image.name.as_str())?,
            disk: dir.disk(),
            disk_bytes: plan.resources.disk.get(),
            cpus: u32::from(plan.resources.cpus),
            memory_bytes: plan.resources.memory.get(),
            log: dir.log("engine"),
        })
    }
}

/// No core dump and no debugger of another process: token values pass through this one.
fn keep_memory_private() -> Result<()> {
    let what = || "cannot keep this process's memory private".to_owned();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).context(Kind::Internal, what)?;
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
        let host_kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
        argv = vec![SELF.to_owned(), "demo".into()];
        argv.extend(["--host-kernel".into(), host_kernel, "--canary".into(), canary.port()?.to_string()]);
        argv.extend(["--allowed-host".into(), DEMO_HOST.into(), "--denied-host".into(), "example.com".into()]);
    }
    let tty = interactive().then(size);
    Ok(ExecRequest { argv, env, cwd: Some(image.workdir.clone()), uid: image.uid, gid: image.gid, tty, stdin: true })
}
