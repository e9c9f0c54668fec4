//! The arguments that `plan` and `launch` share, and the facts about this host that a plan needs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::closure::Closure;
use crate::credentials::login_file;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::git::{self, Config};
use crate::machine::{Qemu, Smolvm};
use crate::manifest::{EnvName, Provider, Slug, TokenSource};
use crate::manifest_files::{self, Search};
use crate::plan::{self, Engine, Host, Identity, ImageFacts, LaunchPlan, Options, PlanError};
use crate::provider::LoginFacts;

/// The arguments that `plan` and `launch` share.
#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// Name of the agent: from bottle.toml, or the built-in one (demo).
    agent: String,
    /// Use this manifest instead of the nearest bottle.toml.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Name this bottle, to run an agent more than once at a time (default: the agent's name).
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Run on this engine.
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// Set a variable in the guest, or answer a question of the manifest.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_env)]
    env: Vec<(EnvName, String)>,
    /// Set the variables in this file, one NAME=VALUE on a line. Empty lines and lines that begin
    /// with # are ignored; --env overrides.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep the agent's own permission prompts (by default they are skipped, because the bottle is
    /// the sandbox).
    #[arg(long)]
    ask: bool,
    /// Let egress use your own login of the agent (Claude Code or Codex). It stays on the host.
    #[arg(long)]
    login: bool,
    /// Where to look for a manifest (default: the current directory).
    #[arg(skip)]
    start: Option<PathBuf>,
    /// Continue the conversation of the previous launch.
    #[arg(skip)]
    resume: bool,
    /// Run this command instead of the agent's own. With Claude Code and Codex, a command that
    /// begins with - or `exec` is added to the agent's own as arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EngineChoice {
    /// The best engine that works here.
    Auto,
    /// QEMU: with KVM where it is usable, otherwise by emulation.
    Qemu,
    /// smolvm (libkrun).
    Smolvm,
}

pub(super) fn parse_env(text: &str) -> Result<(EnvName, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.parse().map_err(|e| format!("{e}"))?, value.to_owned()))
}

/// The variables of a file.
fn read_env_file(file: &std::path::Path) -> Result<Vec<(EnvName, String)>> {
    let what = || format!("cannot read {}", file.display());
    let text = std::fs::read_to_string(file).context(ErrorKind::Config, what)?;
    let line = |(n, line): (usize, &str)| {
        // The line itself may be a secret, so the message has only its number.
        parse_env(line.strip_prefix("export ").unwrap_or(line)).map_err(|why| {
            Error::new(
                ErrorKind::Config,
                format!(
                    "{}:{}: {}",
                    file.display(),
                    n + 1,
                    why.split(':').next().unwrap_or_default()
                ),
            )
        })
    };
    let meant =
        |(_, line): &(usize, &str)| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    text.lines().enumerate().filter(meant).map(line).collect()
}

impl PlanArgs {
    /// The arguments that plan `previous` again, to resume it.
    pub(super) fn of_resumed(
        previous: &LaunchPlan,
        env: &[(EnvName, String)],
        command: &[String],
    ) -> Self {
        Self {
            agent: previous.agent.to_string(),
            manifest: previous.manifest.clone(),
            name: Some(previous.slug.to_string()),
            // Another engine could not use its disk.
            engine: if previous.engine.name == "smolvm" {
                EngineChoice::Smolvm
            } else {
                EngineChoice::Qemu
            },
            env: env.to_vec(),
            env_file: Vec::new(),
            ask: previous.settings.as_ref().is_some_and(|s| s.ask),
            login: previous
                .tokens
                .values()
                .any(|source| matches!(source, TokenSource::Login { .. })),
            start: previous.workspace.path.clone(),
            resume: true,
            command: command.to_vec(),
        }
    }

    /// What `--env` and `--env-file` set.
    pub(super) fn variables(&self) -> Result<BTreeMap<EnvName, String>> {
        let mut found = BTreeMap::new();
        for file in &self.env_file {
            found.extend(read_env_file(file)?);
        }
        found.extend(self.env.iter().cloned());
        Ok(found)
    }

    /// Reads the manifest and plans against this host.
    pub(super) fn plan(&self, closure: &Closure) -> Result<LaunchPlan> {
        let manifest = manifest_files::load(&search(
            self.start.clone().map_or_else(here, Ok)?,
            self.manifest.clone(),
        ))
        .map_err(|e| Error::new(ErrorKind::Config, e.to_string()))?;
        let env = self.variables()?;
        let slug = match &self.name {
            None => None,
            Some(name) => Some(
                name.parse::<Slug>().map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?,
            ),
        };
        let engine = self.engine(closure)?;
        let images = images(closure, &engine.name)?;
        let host = Host {
            env: &|name| std::env::var(name).ok(),
            engine,
            images,
            identity: identity(closure),
            logins: logins(),
        };
        let options = Options {
            slug,
            command: self.command.clone(),
            env,
            ask: self.ask,
            login: self.login,
            resume: self.resume,
        };
        plan::plan(&manifest, &self.agent, &host, &options).map_err(plan_error)
    }

    /// The engine that was asked for; by default smolvm where it can run, which needs KVM.
    fn engine(&self, closure: &Closure) -> Result<Engine> {
        let smolvm = || {
            Smolvm::new(closure)
                .map(|engine| Engine { name: "smolvm".into(), reason: engine.reason() })
        };
        let qemu = || Engine { name: "qemu".into(), reason: Qemu::new(closure).reason() };
        match self.engine {
            EngineChoice::Smolvm => smolvm(),
            EngineChoice::Qemu => Ok(qemu()),
            EngineChoice::Auto => Ok(smolvm().unwrap_or_else(|_| qemu())),
        }
    }
}

/// The author of the operator's commits, as git is configured here; `None` when it is not.
fn identity(closure: &Closure) -> Option<Identity> {
    let here = here().ok()?;
    let get = |key: &str| {
        let git = git::command(&closure.tools.git.path, &here, Config::Operator);
        let get = git.args(["config", "--get", key]);
        let printed = git::run(get, || format!("cannot read {key}")).ok()?;
        let text = String::from_utf8(printed).ok()?.trim().to_owned();
        (!text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control))
            .then_some(text)
    };
    Some(Identity { name: get("user.name")?, email: get("user.email")? })
}

/// The operator's own logins that an agent could use.
fn logins() -> BTreeMap<Provider, LoginFacts> {
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute()) else {
        return BTreeMap::new();
    };
    Provider::all().filter_map(|p| Some((p, login_file::find(p, &home)?))).collect()
}

/// The current directory.
pub(super) fn here() -> Result<PathBuf> {
    std::env::current_dir()
        .context(ErrorKind::Config, || "cannot tell the current directory".into())
}

/// How a manifest is searched for: from `start` upwards, or in `file`.
pub(super) fn search(start: PathBuf, file: Option<PathBuf>) -> Search {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute());
    let user_skills = home.as_ref().map(|h| h.join(manifest_files::USER_SKILLS));
    Search { start, file, home, user_skills }
}

pub(super) fn plan_error(e: PlanError) -> Error {
    match e {
        PlanError::UnknownAgent { name, hint } => {
            Error::new(ErrorKind::Config, format!("no agent {name}")).hint(hint)
        }
        PlanError::Manifest(errors) => Error::new(ErrorKind::Config, errors.to_string()),
    }
}

fn images(closure: &Closure, engine: &str) -> Result<BTreeMap<Slug, ImageFacts>> {
    // An image that does not exist for the engine is reported by the launch.
    let built = closure.images.iter().map(|(name, image)| {
        let file = image.of(engine).map(|file| file.path.clone().into()).unwrap_or_default();
        (name, ImageFacts { image: file, guest: image.guest.clone() })
    });
    let deferred = closure.deferred.iter().filter(|(name, _)| !closure.images.contains_key(*name));
    let deferred = deferred.map(|(name, image)| {
        let file = image.builds.get(engine).map(|build| build.file.clone().into());
        (name, ImageFacts { image: file.unwrap_or_default(), guest: image.guest.clone() })
    });
    let named = |(name, facts): (&String, ImageFacts)| {
        Ok((
            name.parse().map_err(|e| {
                Error::new(ErrorKind::Engine, format!("the closure's image {name:?}: {e}"))
            })?,
            facts,
        ))
    };
    built.chain(deferred).map(named).collect()
}
