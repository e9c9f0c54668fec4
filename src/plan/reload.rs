//! A new plan from a running bottle's changed manifest. Only routes and push rules can change while
//! the bottle runs.

use std::collections::BTreeMap;

use bottle_policy::Stale;

use super::inputs::{Host, Options, PlanError};
use super::planner::plan;
use super::render::diff;
use super::types::LaunchPlan;
use crate::manifest::{EnvPart, EnvValue, Manifest, TokenSource};
use crate::provider::LoginFacts;

/// Plans the launch of `running` again with the current `manifest`. Command line options and facts
/// of the host stay those of the launch.
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
        // An image with another name is reported as a change, not as missing.
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
    // The login that the launch found.
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

/// Differences between `running` (the redacted plan on disk) and `new` that need a restart: all but
/// routes and git-gate's rules. Empty: `new` can be reloaded.
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
    // The daemon has the tokens of the launch: a reload can use fewer of them, but no others.
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
