//! A running bottle's manifest, planned again: its routes and what may be pushed can change while
//! it runs, and nothing else.

use std::collections::BTreeMap;

use bottle_policy::Stale;

use super::inputs::{Host, Options, PlanError};
use super::planner::plan;
use super::render::diff;
use super::types::LaunchPlan;
use crate::manifest::{EnvPart, EnvValue, Manifest, TokenSource};
use crate::provider::LoginFacts;

/// Plans the launch that `running` was made for once more, out of `manifest` as it is now. What the
/// operator said at launch and what the host gave then stays as it was: only the manifest is asked
/// again.
///
/// # Errors
/// As [`plan`].
pub fn replan(
    running: &LaunchPlan,
    manifest: &Manifest,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<LaunchPlan, PlanError> {
    let bottle = manifest
        .agents
        .get(&running.agent)
        .and_then(|a| Some((a, manifest.bottles.get(&a.bottle)?)));
    let mut images = BTreeMap::from([(running.image.name.clone(), running.image.facts.clone())]);
    let mut answers: BTreeMap<_, _> =
        running.given.env.iter().map(|name| (name.clone(), String::new())).collect();
    if let Some((agent, bottle)) = bottle {
        // An image of another name is a change to be told, not a missing image.
        let wanted = bottle.image.as_ref().map(|(name, _)| name.clone());
        let wanted = wanted.or_else(|| agent.provider.image.parse().ok());
        images.extend(wanted.map(|name| (name, running.image.facts.clone())));
        for (name, entry) in &bottle.env {
            let from_host = matches!(&entry.value, EnvValue::Template(parts) if parts.iter().any(|p| matches!(p, EnvPart::HostVar(_))));
            if let (true, Some(value)) = (from_host, running.env.get(name)) {
                answers.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    let command = if running.given.command { running.command.clone() } else { Vec::new() };
    // The login that the launch found, as it was then.
    let login_of = |source: &TokenSource| match source {
        TokenSource::Login { provider, file, .. } => {
            let settings = running.settings.as_ref()?;
            Some((
                *provider,
                LoginFacts {
                    file: file.clone(),
                    auth: settings.auth,
                    account: settings.account.clone(),
                },
            ))
        }
        _ => None,
    };
    let logins: BTreeMap<_, _> = running.tokens.values().filter_map(login_of).collect();
    let login = !logins.is_empty();
    let options = Options {
        slug: Some(running.slug.clone()),
        command,
        env: answers,
        ask: running.settings.as_ref().is_some_and(|s| s.ask),
        resume: false,
        login,
    };
    let host = Host {
        env,
        engine: running.engine.clone(),
        images,
        identity: running.identity.clone(),
        logins,
    };
    let mut new = plan(manifest, running.agent.as_str(), &host, &options)?;
    new.env.retain(|name, _| !running.given.env.contains(name));
    new.given = running.given.clone();
    Ok(new)
}

/// What besides routes and rules of git-gate is not as `running` (as it is remembered: redacted)
/// was launched with; empty when those of `new` can take the place of its own.
#[must_use]
pub fn not_reloadable(running: &LaunchPlan, new: &LaunchPlan) -> Vec<String> {
    let mut now = new.redacted();
    let mut then = running.clone();
    for plan in [&mut now, &mut then] {
        plan.warnings.clear();
        plan.manifest = None;
        for git in &mut plan.git {
            (git.push, git.stale) = (None, Stale::default());
        }
    }
    now.policy = then.policy.clone();
    now.policy_digest.clone_from(&then.policy_digest);
    // The daemon holds the tokens of the launch. It can go without one of them, but get no other.
    let missing: Vec<_> = then
        .tokens
        .iter()
        .filter(|(name, _)| !now.tokens.contains_key(*name))
        .map(|(n, s)| (n.clone(), s.clone()))
        .collect();
    now.tokens.extend(missing);
    let mut out = diff(&then, &now);
    if out.is_empty() && then != now {
        out.push("+ details that the plan does not show".to_owned());
    }
    out
}
