//! Manifest + host → [`LaunchPlan`]. Pure: no process, no file, no clock; the same input gives the
//! same plan.

mod reload;
mod render;
mod secrets;
mod types;
mod warn;

use std::collections::BTreeMap;
use std::path::Path;

use bottle_policy::{Policy, TokenName};
pub use reload::{not_reloadable, replan};
pub use render::{diff, render, route_line};
pub use secrets::looks_secret;
use sha2::{Digest, Sha256};
pub use types::*;

use crate::manifest::{
    Agent, Bottle, EgressChain, EnvName, EnvPart, EnvValue, GitSpec, Location, Manifest,
    ManifestError, ManifestErrors, Provider, Slug, TokenSource, WorkspaceMode, nearest, quote,
};
use crate::provider::{Inputs, LoginFacts};

/// Where the prompt is, relative to the agent's home.
pub const PROMPT: &str = ".bottle/prompt.md";
/// Facts about this host, gathered by the caller.
pub struct Host<'a> {
    /// The host's variables: `&|name| std::env::var(name).ok()`.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The engine that was chosen, and why.
    pub engine: Engine,
    /// Images of the closure by name.
    pub images: BTreeMap<Slug, ImageFacts>,
    /// Who the operator's commits are by.
    pub identity: Option<Identity>,
    /// The host's own logins.
    pub logins: BTreeMap<Provider, LoginFacts>,
}

/// What the operator asked for on the command line.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Instance name; `None`: the agent's name.
    pub slug: Option<Slug>,
    /// `-- CMD…`, replaces the agent's command; empty: no replacement.
    pub command: Vec<String>,
    /// `--env K=V`: answers to questions, replacements, and further guest variables.
    pub env: BTreeMap<EnvName, String>,
    /// The agent keeps its own permission questions.
    pub ask: bool,
    /// Use the host's own login.
    pub login: bool,
    /// The agent goes on with its previous conversation.
    pub resume: bool,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No agent of that name.
    #[error("no agent {name}\n  hint: {hint}")]
    UnknownAgent {
        /// What was asked for, quoted and neutralised.
        name: String,
        /// The nearest name, or all.
        hint: String,
    },
    /// The manifest does not fit this host (unset variable, unknown image, …).
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
}

/// Plans a launch of `agent`.
///
/// # Errors
/// No such agent, or the manifest does not fit this host; every fault is reported, not only the
/// first.
pub fn plan(
    manifest: &Manifest,
    agent: &str,
    host: &Host<'_>,
    options: &Options,
) -> Result<LaunchPlan, PlanError> {
    let found = manifest.agents.iter().find(|(name, _)| name.as_str() == agent);
    let (name, agent) = found.ok_or_else(|| unknown_agent(manifest, agent))?;
    let Some(bottle) = manifest.bottles.get(&agent.bottle) else {
        // The parser checked the reference; this is for manifests put together by hand.
        return Err(ManifestErrors::from(error(
            &agent.at,
            "bottle",
            format!("no bottle `{}`", agent.bottle),
            None,
        ))
        .into());
    };
    let mut faults = Vec::new();
    let image = image(agent, bottle, host, &mut faults);
    let (env, questions) = guest_env(bottle, host, options, &mut faults);
    let is_set = |name: &str| (host.env)(name).is_some_and(|value| !value.is_empty());
    let settings = bottle.provider.get(&agent.provider);
    let forward = options.login || settings.is_some_and(|s| s.forward_host_credentials);
    let login = if forward { host.logins.get(&agent.provider) } else { None };
    if forward && login.is_none() {
        let at = settings.map_or(&agent.at, |s| &s.at);
        let message = format!("{} is not logged in on this host", agent.provider);
        faults.push(error(
            at,
            "forward_host_credentials",
            message,
            Some(agent.provider.login_command().to_owned()),
        ));
    }
    let prompt_file = image.as_ref().map(|image| format!("{}/{PROMPT}", image.facts.guest.home));
    let inputs = Inputs {
        settings,
        prompt: prompt_file.as_deref().filter(|_| agent.prompt.is_some()),
        ask: options.ask,
        resume: options.resume
            && (options.command.is_empty() || agent.provider.resumes_with_arguments),
        is_set: &is_set,
        login,
    };
    let ours = (agent.provider.contribution)(&inputs);
    let command = match options.command.first() {
        Some(word) if (agent.provider.is_argument)(word) => {
            let program = if ours.program.is_empty() { &ours.command } else { &ours.program };
            Some([&program[..], &options.command].concat())
        }
        _ => [&options.command, &agent.command, &ours.command]
            .into_iter()
            .find(|c| !c.is_empty())
            .cloned(),
    };
    if command.is_none() {
        let hint = "write command = [\"…\"], or name one: bottle launch NAME -- CMD".to_owned();
        faults.push(error(
            &agent.at,
            "command",
            format!("agent `{name}` has no command"),
            Some(hint),
        ));
    }
    let tokens = tokens(bottle, &ours.tokens, &mut faults);
    if let (Some(at), WorkspaceMode::Clone, true) =
        (&bottle.workspace.at, bottle.workspace.mode, bottle.git.is_empty())
    {
        let hint = "add [[bottles.NAME.git]] with its url, or say mode = \"copy\"".to_owned();
        faults.push(error(
            at,
            "workspace",
            "mode = \"clone\" needs a repository to clone".to_owned(),
            Some(hint),
        ));
    }
    let (Some(image), Some(command), true) = (image, command, faults.is_empty()) else {
        return Err(ManifestErrors(faults).into());
    };

    let policy =
        Policy::new(bottle.egress.iter().map(|r| r.route.clone()).chain(ours.routes).collect());
    let mut daemons = vec![Daemon::Egress];
    let git: Vec<GitSpec> = bottle
        .git
        .iter()
        .map(|g| g.spec.clone())
        .chain(ours.repository.map(GitSpec::from))
        .collect();
    daemons.extend((!git.is_empty()).then_some(Daemon::GitGate));
    daemons.extend(bottle.supervise.is_some().then_some(Daemon::Supervise));
    let mut plan = LaunchPlan {
        version: VERSION,
        agent: name.clone(),
        bottle: agent.bottle.clone(),
        slug: options.slug.clone().unwrap_or_else(|| name.clone()),
        provider: agent.provider,
        settings: ours.settings,
        provider_env: ours.env,
        manifest: manifest
            .file
            .clone()
            .filter(|_| agent.at != Location::built_in() || bottle.at != Location::built_in()),
        command,
        prompt: agent.prompt.as_ref().map(|text| PlannedPrompt {
            sha256: hex::encode(Sha256::digest(text)),
            bytes: text.len() as u64,
            text: text.clone(),
        }),
        skills: agent.skills.clone(),
        image,
        engine: host.engine.clone(),
        resources: bottle.resources,
        env,
        questions,
        endpoints: daemons.iter().map(|d| Endpoint { daemon: *d, port: d.port() }).collect(),
        daemons,
        policy_digest: policy_digest(&policy, bottle.bundle_egress, &git),
        policy,
        bundle_egress: bottle.bundle_egress,
        tokens,
        git,
        supervise: bottle.supervise.is_some(),
        asking: bottle.supervise.as_ref().map(|s| s.asking.clone()).unwrap_or_default(),
        identity: host.identity.clone().filter(|_| agent.provider.commits_as_operator),
        workspace: PlannedWorkspace {
            mode: bottle.workspace.mode,
            path: bottle.workspace.path.clone(),
        },
        given: Given {
            env: options.env.keys().cloned().collect(),
            command: !options.command.is_empty(),
        },
        warnings: Vec::new(),
    };
    plan.warnings = warn::warnings(&plan, &is_set);
    Ok(plan)
}

impl LaunchPlan {
    /// The plan for printing (`--json`): guest values and command words that look like secrets are
    /// replaced by what they are.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut plan = self.clone();
        plan.env
            .values_mut()
            .chain(&mut plan.command)
            .for_each(|value| *value = render::hide(value));
        for source in plan.tokens.values_mut() {
            if let TokenSource::Command { argv, .. } = source {
                argv.iter_mut().for_each(|word| *word = render::hide(word));
            }
        }
        plan
    }
}

/// The policy's own digest; repositories, and another chain than ours, which enforces it in other
/// ways, make another one.
fn policy_digest(policy: &Policy, chain: EgressChain, git: &[GitSpec]) -> String {
    let mut text = policy.digest();
    if chain != EgressChain::Bottle {
        text = hex::encode(Sha256::digest(format!("{chain} {text}")));
    }
    for git in git {
        let git = serde_json::to_string(git).unwrap_or_default();
        text = hex::encode(Sha256::digest(format!("{text} {git}")));
    }
    text
}

fn error(at: &Location, key: &str, message: String, hint: Option<String>) -> ManifestError {
    ManifestError::new(at, key, message, hint)
}

fn unknown_agent(manifest: &Manifest, asked: &str) -> PlanError {
    let known = || manifest.agents.keys().map(Slug::as_str);
    let hint = match nearest(asked, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("agents here: {}", known().collect::<Vec<_>>().join(", ")),
    };
    PlanError::UnknownAgent { name: quote(asked), hint }
}

fn image(
    agent: &Agent,
    bottle: &Bottle,
    host: &Host<'_>,
    faults: &mut Vec<ManifestError>,
) -> Option<PlannedImage> {
    let default = agent.provider.image;
    let (wanted, at) =
        bottle.image.as_ref().map_or((default, &bottle.at), |(name, at)| (name.as_str(), at));
    if let Some((name, facts)) = host.images.iter().find(|(name, _)| name.as_str() == wanted) {
        return Some(PlannedImage { name: name.clone(), facts: facts.clone() });
    }
    let known = || host.images.keys().map(Slug::as_str);
    let hint = match nearest(wanted, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("images of this closure: {}", known().collect::<Vec<_>>().join(", ")),
    };
    faults.push(error(at, "image", format!("no image `{wanted}`"), Some(hint)));
    None
}

type GuestEnv = (BTreeMap<EnvName, String>, Vec<Question>);

fn guest_env(
    bottle: &Bottle,
    host: &Host<'_>,
    options: &Options,
    faults: &mut Vec<ManifestError>,
) -> GuestEnv {
    let (mut env, mut questions) = (BTreeMap::new(), Vec::new());
    let command_line = Location::whole(Path::new("--env"));
    for (name, value) in &options.env {
        if name.is_reserved() {
            faults.push(error(
                &command_line,
                "env",
                format!("the variable {name} is reserved: the launch sets it in every guest"),
                None,
            ));
        } else if value.contains('\0') {
            faults.push(error(
                &command_line,
                "env",
                format!("the value of {name} has a NUL character"),
                None,
            ));
        } else {
            env.insert(name.clone(), value.clone());
        }
    }
    for (name, entry) in bottle.env.iter().filter(|(name, _)| !options.env.contains_key(name)) {
        match &entry.value {
            EnvValue::Ask(question) => {
                questions.push(Question { name: name.clone(), question: question.clone() })
            }
            EnvValue::Template(parts) => {
                let mut value = String::new();
                for part in parts {
                    match part {
                        EnvPart::Text(text) => value.push_str(text),
                        EnvPart::HostVar(variable) => match (host.env)(variable.as_str()) {
                            Some(text) => value.push_str(&text),
                            None => {
                                let hint = format!("export {variable}=…, or pass --env {name}=…");
                                let message =
                                    format!("the variable {variable} is not set on this host");
                                faults.push(error(
                                    &entry.at,
                                    &format!("env.{name}"),
                                    message,
                                    Some(hint),
                                ));
                            }
                        },
                    }
                }
                env.insert(name.clone(), value);
            }
        }
    }
    (env, questions)
}

fn tokens(
    bottle: &Bottle,
    ours: &BTreeMap<TokenName, TokenSource>,
    faults: &mut Vec<ManifestError>,
) -> BTreeMap<TokenName, TokenSource> {
    let mut tokens = ours.clone();
    let routes = bottle
        .egress
        .iter()
        .filter_map(|r| Some((&r.at, &r.route.inject.as_ref()?.token, r.token.as_ref()?)));
    let of = |g: &GitSpec| {
        g.token.iter().chain(g.deploy_key.iter().map(|k| &k.token)).cloned().collect::<Vec<_>>()
    };
    let git: Vec<_> = bottle
        .git
        .iter()
        .flat_map(|g| of(&g.spec).into_iter().map(|(name, source)| (&g.at, name, source)))
        .collect();
    let git = git.iter().map(|(at, name, source)| (*at, name, source));
    for (at, name, source) in routes.chain(git) {
        if ours.get(name).is_some_and(|our| our != source) {
            let hint = "take it from a variable or a route of another name".to_owned();
            faults.push(error(
                at,
                "token",
                format!("the token name {name} belongs to the agent's provider"),
                Some(hint),
            ));
        }
        tokens.insert(name.clone(), source.clone());
    }
    tokens
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::values::Guest;

    /// The demo's plan on a made-up host.
    pub(crate) fn demo_plan() -> LaunchPlan {
        let text = || "x".to_owned();
        let guest =
            Guest { user: text(), uid: 1, gid: 1, home: text(), workdir: text(), path: text() };
        let facts = ImageFacts { image: "/x".into(), guest };
        let images = BTreeMap::from([("demo".parse().unwrap(), facts)]);
        let host = Host {
            env: &|_| None,
            engine: Engine { name: text(), reason: text() },
            images,
            identity: None,
            logins: BTreeMap::new(),
        };
        plan(&Manifest::built_in(), "demo", &host, &Options::default()).unwrap()
    }
}
