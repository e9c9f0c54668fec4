//! Gathers the facts that a plan needs and makes it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::closure::Closure;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::{Qemu, Smolvm};
use crate::manifest::{self, EnvName, Provider, Search, Slug, TokenSource};
use crate::plan::{self, Engine, Host, Identity, ImageFacts, LaunchPlan, Options, PlanError};
use crate::provider::{self, LoginFacts};

/// What `plan` and `launch` share.
#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// The agent, out of bottle.toml or built in (demo).
    agent: String,
    /// Use this manifest instead of the nearest bottle.toml.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Name this bottle, to run an agent more than once at a time (default: the agent's name).
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Engine to run on.
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// Set a variable in the guest, or answer a question of the manifest.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_env)]
    env: Vec<(EnvName, String)>,
    /// Read such variables from a file: NAME=VALUE lines; empty lines and those that begin with #
    /// are left out. --env wins.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep the agent's own permission questions, which a bottle makes needless.
    #[arg(long)]
    ask: bool,
    /// Let egress use this host's own login of the agent (Claude Code's, Codex'); it stays on the
    /// host.
    #[arg(long)]
    login: bool,
    /// Where to look for a manifest; none: here.
    #[arg(skip)]
    start: Option<PathBuf>,
    /// Go on with the conversation of the launch before.
    #[arg(skip)]
    resume: bool,
    /// Run this instead of the agent's own command; for Claude Code and Codex, words that begin
    /// with - (and `exec`) are added to it.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EngineChoice {
    /// The best one that works here.
    Auto,
    /// QEMU: with KVM where it is usable, else emulation.
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
    let text = std::fs::read_to_string(file).context(Kind::Config, what)?;
    let line = |(n, line): (usize, &str)| {
        // The line itself may be a secret: only its number is told.
        parse_env(line.strip_prefix("export ").unwrap_or(line)).map_err(|why| {
            Error::new(
                Kind::Config,
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
    /// The arguments that plan `previous` once more, to go on with it.
    pub(super) fn of_resumed(
        previous: &LaunchPlan,
        env: &[(EnvName, String)],
        command: &[String],
    ) -> Self {
        Self {
            agent: previous.agent.to_string(),
            manifest: previous.manifest.clone(),
            name: Some(previous.slug.to_string()),
            // Its disk is of no use to another one.
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
    pub(super) fn plan(
        &self,
        closure: &Closure,
        answers: &BTreeMap<EnvName, String>,
    ) -> Result<LaunchPlan> {
        let manifest = manifest::load(&search(
            self.start.clone().map_or_else(here, Ok)?,
            self.manifest.clone(),
        ))
        .map_err(|e| Error::new(Kind::Config, e.to_string()))?;
        let mut env = self.variables()?;
        env.extend(answers.iter().map(|(n, v)| (n.clone(), v.clone())));
        let slug = match &self.name {
            None => None,
            Some(name) => {
                Some(name.parse::<Slug>().map_err(|e| Error::new(Kind::Usage, e.to_string()))?)
            }
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

    /// smolvm where it can run; that is, with KVM.
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

/// Who the operator's commits are by, as git would have it here; `None` when git is not told.
fn identity(closure: &Closure) -> Option<Identity> {
    let get = |key: &str| {
        let git = &closure.tools.git.path;
        let mut command = std::process::Command::new(git);
        command
            .env_clear()
            .env("HOME", std::env::var_os("HOME")?)
            .args(["config", "--get", key])
            .stdin(std::process::Stdio::null());
        let output = command
            .stderr(std::process::Stdio::null())
            .output()
            .ok()
            .filter(|o| o.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (!text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control))
            .then_some(text)
    };
    Some(Identity { name: get("user.name")?, email: get("user.email")? })
}

/// The logins of this host that an agent could use.
fn logins() -> BTreeMap<Provider, LoginFacts> {
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute()) else {
        return BTreeMap::new();
    };
    [Provider::Claude, Provider::Codex]
        .into_iter()
        .filter_map(|p| Some((p, provider::look(p, &home)?)))
        .collect()
}

/// The current directory.
pub(super) fn here() -> Result<PathBuf> {
    std::env::current_dir().context(Kind::Config, || "cannot tell the current directory".into())
}

/// Where to look for a manifest: from `start` upwards, or in `file`.
pub(super) fn search(start: PathBuf, file: Option<PathBuf>) -> Search {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute());
    let user_skills = home.as_ref().map(|h| h.join(manifest::USER_SKILLS));
    Search { start, file, home, user_skills }
}

pub(super) fn plan_error(e: PlanError) -> Error {
    match e {
        PlanError::UnknownAgent { name, hint } => {
            Error::new(Kind::Config, format!("no agent {name}")).hint(hint)
        }
        PlanError::Manifest(errors) => Error::new(Kind::Config, errors.to_string()),
    }
}

fn images(closure: &Closure, engine: &str) -> Result<BTreeMap<Slug, ImageFacts>> {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    // Where an image is not there for the engine, the launch will say so.
    let built = closure.images.iter().map(|(name, image)| {
        let facts = ImageFacts {
            image: image.of(engine).map(|file| file.path.clone()).unwrap_or_default(),
            user: image.user.clone(),
            uid: image.uid,
            gid: image.gid,
            home: text(&image.home),
            workdir: text(&image.workdir),
            path: image.path.clone(),
        };
        (name, facts)
    });
    let later = closure.later.iter().filter(|(name, _)| !closure.images.contains_key(*name)).map(
        |(name, image)| {
            let facts = ImageFacts {
                image: image.builds.get(engine).map(|build| build.file.clone()).unwrap_or_default(),
                user: image.user.clone(),
                uid: image.uid,
                gid: image.gid,
                home: text(&image.home),
                workdir: text(&image.workdir),
                path: image.path.clone(),
            };
            (name, facts)
        },
    );
    let named = |(name, facts): (&String, ImageFacts)| {
        Ok((
            name.parse().map_err(|e| {
                Error::new(Kind::Engine, format!("the closure's image {name:?}: {e}"))
            })?,
            facts,
        ))
    };
    built.chain(later).map(named).collect()
}
