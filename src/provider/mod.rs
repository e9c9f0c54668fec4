//! Providers: what kind of agent runs, what it adds to a plan, and what it needs in the guest. All
//! but `demo` are pure.

mod claude;
mod codex;
pub mod demo;
mod login;

use std::collections::BTreeMap;

use bottle_policy::{HostPattern, PathPattern, Route, TokenName};
use serde::{Deserialize, Serialize};

pub use login::{Login, LoginFacts, look, renewal, renewed_by, usable};

use crate::error::{Error, Kind, Result};
use crate::manifest::{EnvName, GitSpec, Provider, ProviderSettings, TokenSource, neutral};
use crate::plan::LaunchPlan;

/// What an agent has in the place of its credential. Egress overwrites it; it looks like no
/// vendor's key, so that nobody takes it for one.
pub const PLACEHOLDER: &str = "placeholder-the-real-one-stays-outside-the-bottle";
/// Under which name, and where, an agent finds supervise.
const SUPERVISE: (&str, &str) = ("supervise", "http://127.0.0.1:9100/");

/// A provider's part of a plan.
#[derive(Debug, Default)]
pub(crate) struct Contribution {
    /// Routes, after the manifest's own.
    pub routes: Vec<Route>,
    /// Where their tokens come from.
    pub tokens: BTreeMap<TokenName, TokenSource>,
    /// Repositories, after the manifest's own.
    pub git: Vec<GitSpec>,
    /// Guest variables; the manifest's win.
    pub env: BTreeMap<String, String>,
    /// Command line, where the provider and not the manifest says it.
    pub command: Vec<String>,
    /// What the operator's own arguments are added to; empty: `command`.
    pub program: Vec<String>,
    /// What the guest's settings are made of.
    pub settings: Option<PlannedProvider>,
    /// Whether the provider works in this version.
    pub built: bool,
}

/// What a provider is asked to contribute to.
pub(crate) struct Asked<'a> {
    /// The bottle's settings for this provider.
    pub settings: Option<&'a ProviderSettings>,
    /// The prompt's file in the guest, when there is a prompt.
    pub prompt: Option<&'a str>,
    /// Keep the agent's own permission questions.
    pub ask: bool,
    /// Go on with the previous conversation.
    pub resume: bool,
    /// Whether a variable of the host is set and not empty.
    pub is_set: &'a dyn Fn(&str) -> bool,
    /// The host's own login, where it is to be used.
    pub login: Option<&'a LoginFacts>,
}

/// What the guest's settings are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedProvider {
    /// As what the credential goes out.
    pub auth: Auth,
    /// Where the vendor's API is.
    pub base_url: String,
    /// Model to ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The account that requests must name; not secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The agent keeps its own permission questions.
    #[serde(default)]
    pub ask: bool,
}

/// As what a credential goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// The vendor's API key.
    ApiKey,
    /// An OAuth or subscription token.
    Bearer,
}

/// A small file below the agent's home, private to it.
pub(crate) struct GuestFile {
    /// Relative to the home.
    pub path: String,
    /// Text.
    pub content: String,
}

impl GuestFile {
    fn json(path: &str, value: &serde_json::Value) -> Self {
        Self { path: path.to_owned(), content: format!("{value:#}\n") }
    }
}

/// The image for bottles that name none.
pub(crate) fn default_image(provider: Provider) -> &'static str {
    match provider {
        Provider::Demo | Provider::Command => "demo",
        Provider::Claude => "agent-claude",
        Provider::Codex => "agent-codex",
    }
}

/// What `provider` adds to a plan; the demo's is `plan`'s own.
pub(crate) fn contribution(provider: Provider, asked: &Asked<'_>) -> Contribution {
    match provider {
        Provider::Demo | Provider::Command => {
            Contribution { built: true, ..Contribution::default() }
        }
        Provider::Claude => claude::contribution(asked),
        Provider::Codex => codex::contribution(asked),
    }
}

/// The files of the agent's settings.
pub(crate) fn files(plan: &LaunchPlan) -> Vec<GuestFile> {
    match (plan.provider, &plan.settings) {
        (Provider::Claude, Some(settings)) => claude::files(plan, settings),
        (Provider::Codex, Some(settings)) => codex::files(plan, settings),
        _ => Vec::new(),
    }
}

/// Where an agent looks for skills, below its home.
pub(crate) fn skills(provider: Provider) -> &'static str {
    match provider {
        Provider::Codex => codex::SKILLS,
        _ => claude::SKILLS,
    }
}

/// What an agent would ask at a first start, if it were not told before. Words by which each is
/// known.
#[must_use]
pub fn dialogs(provider: Provider) -> &'static [&'static str] {
    match provider {
        Provider::Demo | Provider::Command => &[],
        // The first is below each of its dialogs.
        Provider::Claude => &[
            "Enter to confirm",
            "Press Enter to continue",
            "Choose the text style",
            "Select login method",
            "Make auto mode",
        ],
        Provider::Codex => &[
            "Press enter to continue",
            "Press enter to confirm",
            "Do you trust",
            "Sign in with",
            "Update available",
        ],
    }
}

/// Whether a command line's first word belongs to the agent's own program, as `-p` and codex'
/// `exec` do.
pub(crate) fn is_argument(provider: Provider, word: &str) -> bool {
    match provider {
        Provider::Demo | Provider::Command => false,
        Provider::Claude => word.starts_with('-'),
        Provider::Codex => {
            word.starts_with('-') || matches!(word, "exec" | "e" | "resume" | "review")
        }
    }
}

/// A credential: its name, its source, as what it goes out.
pub(crate) type Credential = (Option<TokenName>, Option<TokenSource>, Auth);

/// What the settings say, or the host's login, or the first of `variables` that the host has, else
/// the last. `name` is for what has none of its own.
fn credential(
    asked: &Asked<'_>,
    provider: Provider,
    variables: &[(&str, Auth)],
    name: &str,
) -> Credential {
    let by_name = |variable: &str| {
        variables.iter().find(|(known, _)| *known == variable).map(|(_, auth)| *auth)
    };
    let usual =
        || variables.iter().find(|(variable, _)| (asked.is_set)(variable)).or(variables.last());
    let (source, auth) = match (asked.login, asked.settings.and_then(|s| s.token.clone())) {
        (Some(login), _) => {
            let url = asked.settings.and_then(|s| s.login_url.clone());
            let ca = asked.settings.and_then(|s| s.ca.clone()).filter(|_| url.is_some());
            (
                Some(TokenSource::Login { provider, file: login.file.clone(), url, ca }),
                Some(login.auth),
            )
        }
        (None, Some(TokenSource::Env(variable))) => {
            (Some(TokenSource::Env(variable.clone())), by_name(variable.as_str()))
        }
        (None, Some(source)) => (Some(source), None),
        (None, None) => usual().map_or((None, None), |(v, auth)| {
            (v.parse::<EnvName>().ok().map(TokenSource::Env), Some(*auth))
        }),
    };
    let token = match &source {
        Some(TokenSource::Env(variable)) => variable.as_str().parse().ok(),
        _ => name.parse().ok(),
    };
    (token, source, asked.settings.and_then(|s| s.auth).or(auth).unwrap_or(Auth::ApiKey))
}

/// The route to the API at `base_url` (checked by the manifest); `paths` where the vendor's own are
/// known, else all below the URL.
fn api_route(
    name: &str,
    base_url: &str,
    paths: &[&str],
    settings: Option<&ProviderSettings>,
) -> Option<Route> {
    let rest = base_url.strip_prefix("https://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority
        .split_once(':')
        .map_or((authority, None), |(host, port)| (host, port.parse().ok()));
    let below = format!("/{}/*", path.trim_matches('/')).replace("//", "/");
    let own = [below.as_str()];
    let paths = if paths.is_empty() { &own[..] } else { paths };
    Some(Route {
        port: port.unwrap_or(443),
        paths: paths.iter().filter_map(|p| p.parse::<PathPattern>().ok()).collect(),
        connect: settings.and_then(|s| s.connect),
        ca: settings.and_then(|s| s.ca.clone()),
        ..Route::to(name, host.to_ascii_lowercase().parse::<HostPattern>().ok()?)
    })
}

/// Refuses a plan whose agent cannot run yet.
///
/// # Errors
/// `Config` for each key whose feature is not built.
pub fn supported(plan: &LaunchPlan) -> Result<()> {
    let Some(first) = plan.unsupported.first() else { return Ok(()) };
    let all: Vec<String> = plan
        .unsupported
        .iter()
        .map(|u| format!("{}: {} needs {}", u.at, u.key, u.feature))
        .collect();
    Err(Error::new(
        Kind::Config,
        format!(
            "this bottle cannot be launched yet, as nothing is silently ignored:\n  {}",
            all.join("\n  ")
        ),
    )
    .hint(format!(
        "bottle plan {}   # shows it; remove `{}` to launch without",
        plan.agent, first.key
    )))
}

/// Refuses a plan whose agent has no credential on this host: better before the operator's yes than
/// after it.
///
/// # Errors
/// `Config` with the command that mends it.
pub fn ready(plan: &LaunchPlan, is_set: &dyn Fn(&str) -> bool) -> Result<()> {
    if plan.settings.is_none() {
        return Ok(());
    }
    let own = format!("{}:api", plan.provider);
    let used = plan
        .policy
        .routes
        .iter()
        .filter(|r| r.name == own)
        .filter_map(|r| r.inject.as_ref())
        .map(|i| &i.token);
    for (name, source) in used.filter_map(|name| Some((name, plan.tokens.get(name)?))) {
        match source {
            TokenSource::Env(variable) if !is_set(variable.as_str()) => {
                let hint = format!(
                    "export {variable}=…   # or use this host's own login: bottle launch {} --login",
                    plan.agent
                );
                return Err(Error::new(
                    Kind::Config,
                    format!("{} has no credential: {variable} is not set", plan.provider),
                )
                .hint(hint));
            }
            TokenSource::Login { provider, file, .. } => {
                let why = |why| {
                    Error::new(Kind::Config, format!("{provider} has no credential: {why}"))
                        .hint(renewed_by(*provider))
                };
                usable(*provider, file).map_err(why)?;
            }
            TokenSource::File { path, .. } if !path.is_file() => {
                return Err(Error::new(
                    Kind::Config,
                    format!(
                        "{} has no credential: {name} is not in {}",
                        plan.provider,
                        path.display()
                    ),
                )
                .hint(format!("ls -l {}", path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What the operator can do about a token that an upstream does not take.
#[must_use]
pub fn turned_down(plan: &LaunchPlan, name: &TokenName) -> String {
    let what = match plan.tokens.get(name) {
        Some(TokenSource::Env(variable)) if plan.settings.is_some() => {
            format!(
                "export {variable}=… with one that is good, or use this host's own login: bottle launch {} --login",
                plan.agent
            )
        }
        Some(TokenSource::Env(variable)) => {
            format!("export {variable}=… with one that is good, and launch again")
        }
        Some(TokenSource::File { path, .. }) => {
            format!("put one that is good into {}", path.display())
        }
        Some(TokenSource::Command { argv, .. }) => {
            format!("its command gives no other: {}", argv.first().map_or("", String::as_str))
        }
        Some(TokenSource::Login { provider, .. }) => renewed_by(*provider).to_owned(),
        Some(TokenSource::Generated) | None => format!("bottle logs {}", plan.slug),
    };
    format!("bottle: an upstream does not take token {name} (401 Unauthorized); {}", neutral(&what))
}

/// Whether the launch itself must run the demo's upstream.
#[must_use]
pub fn needs_demo_upstream(plan: &LaunchPlan) -> bool {
    plan.provider == Provider::Demo
}
