//! The planner itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bottle_policy::{Policy, TokenName};
use sha2::{Digest, Sha256};

use super::guest_env::guest_env;
use super::inputs::{Host, Options, PROMPT, PlanError};
use super::types::{
    Daemon, Endpoint, LaunchPlan, Overrides, PlannedImage, PlannedPrompt, PlannedWorkspace, VERSION,
};
use super::warn::warnings;
use crate::manifest::{
    Agent, Bottle, EgressChain, GitSpec, Manifest, ManifestError, ManifestErrors, WorkspaceMode,
};
use crate::provider::{Contribution, Inputs, LoginFacts, TokenSource};
use crate::values::{Location, Slug, nearest, quote};

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
    let (name, agent, bottle) = agent_and_bottle(manifest, agent)?;
    let mut faults = Vec::new();
    let image = image(agent, bottle, host, &mut faults);
    let (env, questions) = guest_env(bottle, host, options, &mut faults);
    let is_set = |name: &str| (host.env)(name).is_some_and(|value| !value.is_empty());
    let prompt_file = image.as_ref().map(|image| format!("{}/{PROMPT}", image.facts.guest.home));
    let ours = (agent.provider.contribution)(&Inputs {
        settings: bottle.provider.get(&agent.provider),
        prompt: prompt_file.as_deref().filter(|_| agent.prompt.is_some()),
        ask: options.ask,
        resume: options.resume
            && (options.command.is_empty() || agent.provider.resumes_with_arguments),
        is_set: &is_set,
        login: login(agent, bottle, host, options, &mut faults),
    });
    let command = command(name, agent, options, &ours, &mut faults);
    let tokens = tokens(bottle, &ours.tokens, &mut faults);
    check_workspace(bottle, &mut faults);
    let (Some(image), Some(command), true) = (image, command, faults.is_empty()) else {
        return Err(ManifestErrors(faults).into());
    };

    let routes = bottle.egress.iter().map(|r| r.route.clone()).chain(ours.routes);
    let policy = Policy::new(routes.collect());
    let repositories = bottle.git.iter().map(|g| g.spec.clone());
    let git: Vec<GitSpec> = repositories.chain(ours.repository.map(GitSpec::from)).collect();
    let daemons = daemons(&git, bottle);
    let mut plan = LaunchPlan {
        version: VERSION,
        unsupported: serde::de::IgnoredAny,
        agent: name.clone(),
        bottle: agent.bottle.clone(),
        slug: options.slug.clone().unwrap_or_else(|| name.clone()),
        provider: agent.provider,
        settings: ours.settings,
        provider_env: ours.env,
        manifest: manifest_file(manifest, agent, bottle),
        command,
        prompt: agent.prompt.as_deref().map(planned_prompt),
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
        workspace: planned_workspace(bottle),
        given: overrides(options),
        warnings: Vec::new(),
    };
    plan.warnings = warnings(&plan, &is_set);
    Ok(plan)
}

fn agent_and_bottle<'a>(
    manifest: &'a Manifest,
    wanted: &str,
) -> Result<(&'a Slug, &'a Agent, &'a Bottle), PlanError> {
    let found = manifest.agents.iter().find(|(name, _)| name.as_str() == wanted);
    let (name, agent) = found.ok_or_else(|| unknown_agent(manifest, wanted))?;
    // The parser checks the reference; a manifest that was built in code may lack the bottle.
    let bottle = manifest.bottles.get(&agent.bottle).ok_or_else(|| {
        let message = format!("no bottle `{}`", agent.bottle);
        ManifestErrors::from(error(&agent.at, "bottle", message, None))
    })?;
    Ok((name, agent, bottle))
}

fn daemons(git: &[GitSpec], bottle: &Bottle) -> Vec<Daemon> {
    let mut daemons = vec![Daemon::Egress];
    daemons.extend((!git.is_empty()).then_some(Daemon::GitGate));
    daemons.extend(bottle.supervise.is_some().then_some(Daemon::Supervise));
    daemons
}

fn planned_workspace(bottle: &Bottle) -> PlannedWorkspace {
    PlannedWorkspace { mode: bottle.workspace.mode, path: bottle.workspace.path.clone() }
}

fn overrides(options: &Options) -> Overrides {
    Overrides { env: options.env.keys().cloned().collect(), command: !options.command.is_empty() }
}

/// The manifest's file; `None` for what is built in.
fn manifest_file(manifest: &Manifest, agent: &Agent, bottle: &Bottle) -> Option<PathBuf> {
    let built_in = Location::built_in();
    manifest.file.clone().filter(|_| agent.at != built_in || bottle.at != built_in)
}

fn planned_prompt(text: &str) -> PlannedPrompt {
    PlannedPrompt {
        sha256: hex::encode(Sha256::digest(text)),
        bytes: text.len() as u64,
        text: text.to_owned(),
    }
}

/// The host's own login, where the operator or the manifest wants it to be used.
fn login<'a>(
    agent: &Agent,
    bottle: &Bottle,
    host: &'a Host<'_>,
    options: &Options,
    faults: &mut Vec<ManifestError>,
) -> Option<&'a LoginFacts> {
    let settings = bottle.provider.get(&agent.provider);
    if !options.login && !settings.is_some_and(|s| s.forward_host_credentials) {
        return None;
    }
    let login = host.logins.get(&agent.provider);
    if login.is_none() {
        faults.push(error(
            settings.map_or(&agent.at, |s| &s.at),
            "forward_host_credentials",
            format!("{} is not logged in on this host", agent.provider),
            Some(agent.provider.login_command().to_owned()),
        ));
    }
    login
}

/// The guest's command line: the operator's, the manifest's or the agent's own.
fn command(
    name: &Slug,
    agent: &Agent,
    options: &Options,
    ours: &Contribution,
    faults: &mut Vec<ManifestError>,
) -> Option<Vec<String>> {
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
        let message = format!("agent `{name}` has no command");
        faults.push(error(&agent.at, "command", message, Some(hint)));
    }
    command
}

fn check_workspace(bottle: &Bottle, faults: &mut Vec<ManifestError>) {
    if let (Some(at), WorkspaceMode::Clone, true) =
        (&bottle.workspace.at, bottle.workspace.mode, bottle.git.is_empty())
    {
        let message = "mode = \"clone\" needs a repository to clone".to_owned();
        let hint = "add [[bottles.NAME.git]] with its url, or say mode = \"copy\"".to_owned();
        faults.push(error(at, "workspace", message, Some(hint)));
    }
}

/// The policy's digest, with the chain (unless it is ours) and the repositories mixed in.
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

fn unknown_agent(manifest: &Manifest, name: &str) -> PlanError {
    let known = || manifest.agents.keys().map(Slug::as_str);
    let hint = match nearest(name, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("agents here: {}", known().collect::<Vec<_>>().join(", ")),
    };
    PlanError::UnknownAgent { name: quote(name), hint }
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
