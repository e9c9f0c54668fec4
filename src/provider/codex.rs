//! Codex: its routes, its placeholder credential, its settings. Facts of version 0.169.0, which
//! tests/agents/ checks.

use std::collections::BTreeMap;

use bottle_policy::{Action, Inject, Place, Route, Scan, Scheme};
use toml_edit::{DocumentMut, Item, Table, value};

use super::agent::{Agent, BuiltIn, Contribution, Inputs, Provider};
use super::login_layout::{Auth, LoginLayout, RenewedField};
use super::settings::{GuestFile, PlannedProvider, SettingsInputs};
use super::vendor_api::{PLACEHOLDER, api_route, credential};
use crate::values::Resources;

pub(super) static AGENT: Agent = Agent {
    name: "codex",
    title: "Codex",
    image: "agent-codex",
    built_in: Some(BuiltIn { resources: Resources::DEFAULT, copies_workspace: true }),
    takes_command: false,
    has_settings: true,
    resumable: true,
    // `resume` is a subcommand, so the operator's own words have to say what is resumed.
    resumes_with_arguments: false,
    commits_as_operator: true,
    needs_demo_upstream: false,
    skills_dir: ".codex/skills",
    first_run_prompts: &[
        "Press enter to continue",
        "Press enter to confirm",
        "Do you trust",
        "Sign in with",
        "Update available",
    ],
    login: Some(LoginLayout {
        file: ".codex/auth.json",
        tokens: &[("/OPENAI_API_KEY", Auth::ApiKey), ("/tokens/access_token", Auth::Bearer)],
        refresh_token: "/tokens/refresh_token",
        account: Some("/tokens/account_id"),
        expires_ms: None,
        // Both are in the pinned program.
        token_url: "https://auth.openai.com/oauth/token",
        client_id: "app_EMoamEEZ73f0CkXaXp7hrann",
        renewed: &[
            ("/tokens/access_token", RenewedField::AccessToken),
            ("/tokens/refresh_token", RenewedField::RefreshToken),
            ("/tokens/id_token", RenewedField::IdToken),
            ("/last_refresh", RenewedField::RenewedAt),
        ],
        command: "codex login   # on this host",
    }),
    contribution,
    is_argument: |word| word.starts_with('-') || matches!(word, "exec" | "e" | "resume" | "review"),
    settings_files,
    live_command: None,
};

const BASE_URL: &str = "https://api.openai.com/v1";
/// The API for a ChatGPT account instead of an API key.
const CHATGPT: &str = "https://chatgpt.com/backend-api/codex";
const VARIABLES: [(&str, Auth); 2] =
    [("CODEX_API_KEY", Auth::ApiKey), ("OPENAI_API_KEY", Auth::ApiKey)];

fn contribution(inputs: &Inputs<'_>) -> Contribution {
    let settings = inputs.settings;
    let account = inputs.login.and_then(|login| login.account.clone());
    let usual = if account.is_some() { CHATGPT } else { BASE_URL };
    let base_url = settings.and_then(|s| s.base_url.clone()).unwrap_or_else(|| usual.to_owned());
    let (name, source, auth) = credential(inputs, Provider(&AGENT), &VARIABLES, "CODEX_TOKEN");
    let mut out = Contribution::default();
    if let Some(route) = api_route("codex:api", &base_url, &[], settings) {
        let inject = name.clone().map(|token| Inject {
            place: Place::Header("authorization".to_owned()),
            scheme: Scheme::Bearer,
            token,
        });
        // A credential that is quoted in a conversation is removed from it; blocking the request
        // would end the conversation.
        out.routes.push(Route {
            inject,
            scan: Scan { limit: Some(Action::Redact), ..Scan::default() },
            ..route
        });
    }
    out.tokens.extend(name.zip(source));
    out.env = BTreeMap::from([("OPENAI_API_KEY".to_owned(), PLACEHOLDER.to_owned())]);
    out.program = vec!["codex".to_owned()];
    // Without this, a background server first installs a copy of itself, which takes minutes under
    // emulation. One terminal does not need it.
    out.command = vec!["codex".to_owned(), "--no-daemon".to_owned()];
    if inputs.resume {
        out.command.extend(["resume".to_owned(), "--last".to_owned()]);
    }
    let ask = inputs.ask || settings.is_some_and(|s| s.ask);
    out.settings = Some(PlannedProvider {
        auth,
        base_url,
        ask,
        account,
        model: settings.and_then(|s| s.model.clone()),
    });
    out
}

fn settings_files(inputs: &SettingsInputs<'_>) -> Vec<GuestFile> {
    let settings = inputs.settings;
    let mut config = DocumentMut::new();
    if let Some(model) = &settings.model {
        config["model"] = value(model);
    }
    // Codex' own provider entry tries a WebSocket five times first, for seven seconds, where a
    // gateway speaks only HTTP.
    config["model_provider"] = value("bottle");
    config["check_for_update_on_startup"] = value(false);
    config["approval_policy"] = value(if settings.ask { "on-request" } else { "never" });
    // The bottle is the sandbox.
    config["sandbox_mode"] = value("danger-full-access");
    let mut table = |path: &[&str], entries: &[(&str, Item)]| {
        let mut at = config.as_table_mut();
        for key in path {
            let Some(next) = at.entry(key).or_insert(Item::Table(Table::new())).as_table_mut()
            else {
                return;
            };
            at = next;
        }
        at.extend(entries.iter().map(|(key, item)| (*key, item.clone())));
    };
    let provider = [
        ("name", value("OpenAI")),
        ("base_url", value(&settings.base_url)),
        ("env_key", value("OPENAI_API_KEY")),
        ("wire_api", value("responses")),
        ("supports_websockets", value(false)),
    ];
    table(&["model_providers", "bottle"], &provider);
    if let Some(account) = &settings.account {
        table(
            &["model_providers", "bottle", "http_headers"],
            &[("chatgpt-account-id", value(account))],
        );
    }
    table(&["projects", &inputs.guest.workdir], &[("trust_level", value("trusted"))]);
    table(&["analytics"], &[("enabled", value(false))]);
    // Both are fetched from hosts that no route names.
    table(&["features"], &[("plugins", value(false)), ("apps", value(false))]);
    table(&["notice"], &[("hide_full_access_warning", value(true))]);
    if let Some((name, url)) = &inputs.supervise {
        table(&["mcp_servers", name], &[("url", value(url))]);
    }
    let mut files =
        vec![GuestFile { path: ".codex/config.toml".to_owned(), content: config.to_string() }];
    if let Some(prompt) = inputs.prompt {
        files.push(GuestFile { path: ".codex/AGENTS.md".to_owned(), content: prompt.to_owned() });
    }
    files
}
