//! Claude Code: its routes, its placeholder credential, its settings. Facts of version 2.1.329,
//! which tests/agents/ checks.

use std::collections::BTreeMap;

use bottle_policy::{Action, Inject, Place, Scan, Scheme, TokenName};
use serde_json::json;

use super::agent::{Agent, BuiltIn, Contribution, Inputs, Provider};
use super::login_layout::{Auth, LoginLayout, RenewedField};
use super::settings::{GuestFile, PlannedProvider, SettingsInputs};
use super::vendor_api::{PLACEHOLDER, api_route, credential};
use crate::values::Resources;

pub(super) static AGENT: Agent = Agent {
    name: "claude",
    title: "Claude Code",
    image: "agent-claude",
    built_in: Some(BuiltIn { resources: Resources::DEFAULT, copies_workspace: true }),
    takes_command: false,
    has_settings: true,
    resumable: true,
    resumes_with_arguments: true,
    commits_as_operator: true,
    needs_demo_upstream: false,
    skills_dir: ".claude/skills",
    // The first is below each of its dialogs.
    first_run_prompts: &[
        "Enter to confirm",
        "Press Enter to continue",
        "Choose the text style",
        "Select login method",
        "Make auto mode",
    ],
    login: Some(LoginLayout {
        file: ".claude/.credentials.json",
        tokens: &[("/claudeAiOauth/accessToken", Auth::Bearer)],
        refresh_token: "/claudeAiOauth/refreshToken",
        account: None,
        expires_ms: Some("/claudeAiOauth/expiresAt"),
        // Both are in the pinned program.
        token_url: "https://platform.claude.com/v1/oauth/token",
        client_id: "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
        renewed: &[
            ("/claudeAiOauth/accessToken", RenewedField::AccessToken),
            ("/claudeAiOauth/refreshToken", RenewedField::RefreshToken),
            ("/claudeAiOauth/expiresAt", RenewedField::ExpiresMs),
        ],
        command: "claude   # on this host: it renews its login, or asks you to log in",
    }),
    contribution,
    is_argument: |word| word.starts_with('-'),
    settings_files,
    live_command: None,
};

const BASE_URL: &str = "https://api.anthropic.com";
/// Host variables that may hold a credential. The first that is set is used.
const VARIABLES: [(&str, Auth); 3] = [
    ("CLAUDE_CODE_OAUTH_TOKEN", Auth::Bearer),
    ("ANTHROPIC_AUTH_TOKEN", Auth::Bearer),
    ("ANTHROPIC_API_KEY", Auth::ApiKey),
];

fn contribution(inputs: &Inputs<'_>) -> Contribution {
    let settings = inputs.settings;
    let base_url = settings.and_then(|s| s.base_url.clone()).unwrap_or_else(|| BASE_URL.to_owned());
    let (name, source, auth) = credential(inputs, Provider(&AGENT), &VARIABLES, "CLAUDE_TOKEN");
    let mut out = Contribution::default();
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
    let ask = inputs.ask || settings.is_some_and(|s| s.ask);
    out.command = vec!["claude".to_owned()];
    if !ask {
        out.command.push("--dangerously-skip-permissions".to_owned());
    }
    if let Some(prompt) = inputs.prompt {
        out.command.extend(["--append-system-prompt-file".to_owned(), prompt.to_owned()]);
    }
    if let Some(model) = settings.and_then(|s| s.model.clone()) {
        out.command.extend(["--model".to_owned(), model]);
    }
    if inputs.resume {
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

/// A credential that is quoted in a conversation is removed from it; blocking the request would end
/// the conversation.
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
        // As root, the agent skips its permission prompts only in a sandbox.
        ("IS_SANDBOX", "1"),
    ]);
    if base_url != BASE_URL {
        env.insert("ANTHROPIC_BASE_URL", base_url);
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Settings that answer what the agent would ask at its first start.
fn settings_files(inputs: &SettingsInputs<'_>) -> Vec<GuestFile> {
    let settings = inputs.settings;
    let approved = &PLACEHOLDER[PLACEHOLDER.len().saturating_sub(20)..];
    let mut state = json!({
        "hasCompletedOnboarding": true,
        // The first start offers another permission mode.
        "hasSeenAutoDefaultNudge": true,
        "hasSeenAutoDefaultNotice": true,
        "customApiKeyResponses": { "approved": [approved], "rejected": [] },
        "projects": {
            &inputs.guest.workdir: {
                "hasTrustDialogAccepted": true,
                "hasCompletedProjectOnboarding": true,
            },
        },
    });
    if let Some((name, url)) = &inputs.supervise {
        state["mcpServers"] = json!({ *name: { "type": "http", "url": url } });
    }
    let mut own = json!({ "skipDangerousModePermissionPrompt": true });
    if !settings.ask {
        // For a `claude` that `bottle exec` starts without the flag, too.
        own["permissions"] = json!({ "defaultMode": "bypassPermissions" });
    }
    if let Some(model) = &settings.model {
        own["model"] = json!(model);
    }
    vec![GuestFile::json(".claude.json", &state), GuestFile::json(".claude/settings.json", &own)]
}
