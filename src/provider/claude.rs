//! Claude Code: its routes, its placeholder credential, its settings. Facts of 2.1.329, shown by
//! tests/agents/.

use std::collections::BTreeMap;

use bottle_policy::{Action, Inject, Place, Scan, Scheme, TokenName};
use serde_json::json;

use super::{
    Asked, Auth, Contribution, GuestFile, PLACEHOLDER, PlannedProvider, SUPERVISE, api_route,
    credential,
};
use crate::manifest::Provider;
use crate::plan::{Daemon, LaunchPlan};

const BASE_URL: &str = "https://api.anthropic.com";
/// Variables that may hold a credential, in the order in which they are tried.
const VARIABLES: [(&str, Auth); 3] = [
    ("CLAUDE_CODE_OAUTH_TOKEN", Auth::Bearer),
    ("ANTHROPIC_AUTH_TOKEN", Auth::Bearer),
    ("ANTHROPIC_API_KEY", Auth::ApiKey),
];

pub(super) fn contribution(asked: &Asked<'_>) -> Contribution {
    let settings = asked.settings;
    let base_url = settings.and_then(|s| s.base_url.clone()).unwrap_or_else(|| BASE_URL.to_owned());
    let (name, source, auth) = credential(asked, Provider::Claude, &VARIABLES, "CLAUDE_TOKEN");
    let mut out = Contribution { built: true, ..Contribution::default() };
    let paths: &[&str] = if base_url == BASE_URL { &["/v1/*", "/api/*"] } else { &[] };
    if let Some(route) = api_route("claude:api", &base_url, paths, settings) {
        out.routes.push(bottle_policy::Route {
            inject: name.clone().map(|token| inject(auth, token)),
            scan: scan(),
            ..route
        });
    }
    out.tokens.extend(name.zip(source));
    out.env = environment(auth, &base_url);
    let ask = asked.ask || settings.is_some_and(|s| s.ask);
    out.command = vec!["claude".to_owned()];
    if !ask {
        out.command.push("--dangerously-skip-permissions".to_owned());
    }
    if let Some(prompt) = asked.prompt {
        out.command.extend(["--append-system-prompt-file".to_owned(), prompt.to_owned()]);
    }
    if let Some(model) = settings.and_then(|s| s.model.clone()) {
        out.command.extend(["--model".to_owned(), model]);
    }
    if asked.resume {
        out.command.push("--continue".to_owned());
    }
    out.settings = Some(PlannedProvider {
        auth,
        base_url,
        ask,
        account: None,
        model: settings.and_then(|s| s.model.clone()),
    });
    out
}

fn inject(auth: Auth, token: TokenName) -> Inject {
    match auth {
        Auth::ApiKey => {
            Inject { place: Place::Header("x-api-key".to_owned()), scheme: Scheme::Raw, token }
        }
        Auth::Bearer => Inject {
            place: Place::Header("authorization".to_owned()),
            scheme: Scheme::Bearer,
            token,
        },
    }
}

/// A conversation that quotes a credential goes on without it, rather than not at all.
fn scan() -> Scan {
    Scan { limit: Some(Action::Redact), ..Scan::default() }
}

fn environment(auth: Auth, base_url: &str) -> BTreeMap<String, String> {
    let credential = match auth {
        Auth::ApiKey => "ANTHROPIC_API_KEY",
        Auth::Bearer if base_url == BASE_URL => "CLAUDE_CODE_OAUTH_TOKEN",
        Auth::Bearer => "ANTHROPIC_AUTH_TOKEN",
    };
    let mut env = BTreeMap::from([
        (credential, PLACEHOLDER),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("DISABLE_AUTOUPDATER", "1"),
        // It is one; as root the agent would refuse to skip its questions without.
        ("IS_SANDBOX", "1"),
    ]);
    if base_url != BASE_URL {
        env.insert("ANTHROPIC_BASE_URL", base_url);
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What the agent would otherwise ask at its first start, answered.
pub(super) fn files(plan: &LaunchPlan, settings: &PlannedProvider) -> Vec<GuestFile> {
    let approved = &PLACEHOLDER[PLACEHOLDER.len().saturating_sub(20)..];
    let mut state = json!({
        "hasCompletedOnboarding": true,
        // Another mode of asking is offered at the first start.
        "hasSeenAutoDefaultNudge": true,
        "hasSeenAutoDefaultNotice": true,
        "customApiKeyResponses": { "approved": [approved], "rejected": [] },
        "projects": { &plan.image.facts.workdir: { "hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true } },
    });
    if plan.daemons.contains(&Daemon::Supervise) {
        state["mcpServers"] = json!({ SUPERVISE.0: { "type": "http", "url": SUPERVISE.1 } });
    }
    let mut own = json!({ "skipDangerousModePermissionPrompt": true });
    if !settings.ask {
        // Also for a `claude` that the command line or `bottle exec` starts.
        own["permissions"] = json!({ "defaultMode": "bypassPermissions" });
    }
    if let Some(model) = &settings.model {
        own["model"] = json!(model);
    }
    vec![GuestFile::json(".claude.json", &state), GuestFile::json(".claude/settings.json", &own)]
}

/// Where it looks for the user's skills, below its home.
pub(super) const SKILLS: &str = ".claude/skills";
