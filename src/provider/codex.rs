//! Codex: its routes, its placeholder credential, its settings. Facts of 0.169.0, shown by
//! tests/agents/.

use std::collections::BTreeMap;

use bottle_policy::{Action, Inject, Place, Route, Scan, Scheme};
use toml_edit::{DocumentMut, Item, Table, value};

use super::{
    Asked, Auth, Contribution, GuestFile, PLACEHOLDER, PlannedProvider, SUPERVISE, api_route,
    credential,
};
use crate::manifest::Provider;
use crate::plan::{Daemon, LaunchPlan};

const BASE_URL: &str = "https://api.openai.com/v1";
/// Where requests go with a ChatGPT account instead of an API key.
const CHATGPT: &str = "https://chatgpt.com/backend-api/codex";
const VARIABLES: [(&str, Auth); 2] =
    [("CODEX_API_KEY", Auth::ApiKey), ("OPENAI_API_KEY", Auth::ApiKey)];

pub(super) fn contribution(asked: &Asked<'_>) -> Contribution {
    let settings = asked.settings;
    let account = asked.login.and_then(|login| login.account.clone());
    let usual = if account.is_some() { CHATGPT } else { BASE_URL };
    let base_url = settings.and_then(|s| s.base_url.clone()).unwrap_or_else(|| usual.to_owned());
    let (name, source, auth) = credential(asked, Provider::Codex, &VARIABLES, "CODEX_TOKEN");
    let mut out = Contribution { built: true, ..Contribution::default() };
    if let Some(route) = api_route("codex:api", &base_url, &[], settings) {
        let inject = name.clone().map(|token| Inject {
            place: Place::Header("authorization".to_owned()),
            scheme: Scheme::Bearer,
            token,
        });
        // A conversation that quotes a credential goes on without it, rather than not at all.
        out.routes.push(Route {
            inject,
            scan: Scan { limit: Some(Action::Redact), ..Scan::default() },
            ..route
        });
    }
    out.tokens.extend(name.zip(source));
    out.env = BTreeMap::from([("OPENAI_API_KEY".to_owned(), PLACEHOLDER.to_owned())]);
    out.program = vec!["codex".to_owned()];
    // Its server in the background would first install a copy of itself, for minutes under
    // emulation; one terminal needs none.
    out.command = vec!["codex".to_owned(), "--no-daemon".to_owned()];
    if asked.resume {
        out.command.extend(["resume".to_owned(), "--last".to_owned()]);
    }
    let ask = asked.ask || settings.is_some_and(|s| s.ask);
    out.settings = Some(PlannedProvider {
        auth,
        base_url,
        ask,
        account,
        model: settings.and_then(|s| s.model.clone()),
    });
    out
}

pub(super) fn files(plan: &LaunchPlan, settings: &PlannedProvider) -> Vec<GuestFile> {
    let mut config = DocumentMut::new();
    if let Some(model) = &settings.model {
        config["model"] = value(model);
    }
    // Its own provider would try a WebSocket five times first, for seven seconds, wherever a
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
    table(&["projects", &plan.image.facts.workdir], &[("trust_level", value("trusted"))]);
    table(&["analytics"], &[("enabled", value(false))]);
    // They are fetched from hosts that no route names.
    table(&["features"], &[("plugins", value(false)), ("apps", value(false))]);
    table(&["notice"], &[("hide_full_access_warning", value(true))]);
    if plan.daemons.contains(&Daemon::Supervise) {
        table(&["mcp_servers", SUPERVISE.0], &[("url", value(SUPERVISE.1))]);
    }
    let mut files =
        vec![GuestFile { path: ".codex/config.toml".to_owned(), content: config.to_string() }];
    if let Some(prompt) = &plan.prompt {
        files.push(GuestFile { path: ".codex/AGENTS.md".to_owned(), content: prompt.text.clone() });
    }
    files
}

/// Where it looks for the user's skills, below its home.
pub(super) const SKILLS: &str = ".codex/skills";
