//! Gathers the facts that a plan needs and makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::closure::Closure;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::{Qemu, Smolvm};
use crate::manifest::{self, EnvName, Search, Slug};
use crate::plan::{self, Engine, Host, ImageFacts, LaunchPlan, Options, PlanError};

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
    /// Run this instead of the agent's own command.
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

fn parse_env(text: &str) -> Result<(EnvName, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.parse().map_err(|e| format!("{e}"))?, value.to_owned()))
}

impl PlanArgs {
    /// The variables that `--env` sets.
    pub(super) fn given(&self) -> BTreeSet<EnvName> {
        self.env.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Reads the manifest and plans against this host.
    pub(super) fn plan(&self, closure: &Closure, answers: &BTreeMap<EnvName, String>) -> Result<LaunchPlan> {
        let manifest = manifest::load(&search(here()?, self.manifest.clone())).map_err(|e| Error::new(Kind::Config, e.to_string()))?;
        let mut env: BTreeMap<EnvName, String> = self.env.iter().cloned().collect();
        env.extend(answers.iter().map(|(n, v)| (n.clone(), v.clone())));
        let slug = match &self.name {
            None => None,
            Some(name) => Some(name.parse::<Slug>().map_err(|e| Error::new(Kind::Usage, e.to_string()))?),
        };
        let engine = self.engine(closure)?;
        let images = images(closure, &engine.name)?;
        let host = Host { env: &|name| std::env::var(name).ok(), engine, images };
        let options = Options { slug, command: self.command.clone(), env };
        plan::plan(&manifest, &self.agent, &host, &options).map_err(plan_error)
    }

    /// smolvm where it can run; that is, with KVM.
    fn engine(&self, closure: &Closure) -> Result<Engine> {
        let smolvm = || Smolvm::new(closure).map(|engine| Engine { name: "smolvm".into(), reason: engine.reason() });
        let qemu = || Engine { name: "qemu".into(), reason: Qemu::new(closure).reason() };
        match self.engine {
            EngineChoice::Smolvm => smolvm(),
            EngineChoice::Qemu => Ok(qemu()),
            EngineChoice::Auto => Ok(smolvm().unwrap_or_else(|_| qemu())),
        }
    }
}

/// The current directory.
pub(super) fn here() -> Result<PathBuf> {
    std::env::current_dir().context(Kind::Config, || "cannot tell the current directory".into())
}

/// Where to look for a manifest: from `start` upwards, or in `file`.
pub(super) fn search(start: PathBuf, file: Option<PathBuf>) -> Search {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute());
    let user_skills = home.as_ref().map(|h| h.join(".config/bottle/skills"));
    Search { start, file, home, user_skills }
}

pub(super) fn plan_error(e: PlanError) -> Error {
    match e {
        PlanError::UnknownAgent { name, hint } => Error::new(Kind::Config, format!("no agent {name}")).hint(hint),
        PlanError::Manifest(errors) => Error::new(Kind::Config, errors.to_string()),
    }
}

fn images(closure: &Closure, engine: &str) -> Result<BTreeMap<Slug, ImageFacts>> {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    closure
        .images
        .iter()
        .map(|(name, image)| {
            let slug = name.parse().map_err(|e| Error::new(Kind::Engine, format!("the closure's image {name:?}: {e}")))?;
            let facts = ImageFacts {
                image: image.smolmachine.as_ref().filter(|_| engine == "smolvm").unwrap_or(&image.erofs).path.clone(),
                user: image.user.clone(),
                uid: image.uid,
                gid: image.gid,
                home: text(&image.home),
                workdir: text(&image.workdir),
                path: image.path.clone(),
            };
            Ok((slug, facts))
        })
        .collect()
}
