//! A test agent, compiled in unit tests only: what a new agent takes is this file, its `mod` line
//! and its row in the registry. The tests below follow it from the manifest to the guest's files.

use super::agent::{Agent, BuiltIn, Contribution, Inputs};
use super::login_layout::{Auth, LoginLayout, RenewedField};
use super::settings::{GuestFile, PlannedProvider, SettingsInputs};
use crate::values::Resources;

pub(super) static AGENT: Agent = Agent {
    name: "testagent",
    title: "Test Agent",
    image: "agent-test",
    built_in: Some(BuiltIn { resources: Resources::DEFAULT, copies_workspace: true }),
    takes_command: false,
    has_settings: true,
    resumable: true,
    resumes_with_arguments: false,
    commits_as_operator: true,
    needs_demo_upstream: false,
    skills_dir: ".testagent/skills",
    first_run_prompts: &["Welcome"],
    login: Some(LoginLayout {
        file: ".testagent.json",
        tokens: &[("/access", Auth::Bearer)],
        refresh_token: "/refresh",
        account: None,
        expires_ms: None,
        token_url: "https://login.test/token",
        client_id: "test",
        renewed: &[("/access", RenewedField::AccessToken)],
        command: "testagent login",
    }),
    contribution,
    is_argument: |word| word.starts_with('-'),
    settings_files,
    live_command: None,
};

fn contribution(inputs: &Inputs<'_>) -> Contribution {
    Contribution {
        command: vec!["testagent".to_owned()],
        settings: Some(PlannedProvider {
            auth: Auth::Bearer,
            base_url: "https://api.test".to_owned(),
            model: inputs.settings.and_then(|s| s.model.clone()),
            account: None,
            ask: inputs.ask,
        }),
        ..Contribution::default()
    }
}

fn settings_files(inputs: &SettingsInputs<'_>) -> Vec<GuestFile> {
    let content = inputs.settings.model.clone().unwrap_or_default();
    vec![GuestFile { path: ".testagent/model".to_owned(), content }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use crate::credentials::login_file::Login;
    use crate::manifest::{MemFiles, parse};
    use crate::plan::{Engine, Host, ImageFacts, LaunchPlan, Options, plan};
    use crate::provider::{Provider, SettingsInputs};
    use crate::values::Guest;

    fn planned(words: &[&str]) -> LaunchPlan {
        let text = "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"testagent\"\n\
                    [bottles.d.provider.testagent]\nmodel = \"m\"\n";
        let manifest =
            parse(text.as_bytes(), Path::new("bottle.toml"), &MemFiles::default()).unwrap();
        let guest = Guest {
            user: "u".into(),
            uid: 1,
            gid: 1,
            home: "/home/u".into(),
            workdir: "/work".into(),
            path: "/bin".into(),
        };
        let images = BTreeMap::from([(
            "agent-test".parse().unwrap(),
            ImageFacts { image: "/x".into(), guest },
        )]);
        let engine = Engine { name: "qemu".into(), reason: String::new() };
        let host = Host { env: &|_| None, engine, images, identity: None, logins: BTreeMap::new() };
        let command = words.iter().map(|w| (*w).to_owned()).collect();
        plan(&manifest, "a", &host, &Options { command, ..Options::default() }).unwrap()
    }

    #[test]
    fn a_registered_agent_is_planned_with_its_own_image_command_and_settings() {
        let plan = planned(&["-v"]);
        assert_eq!(plan.image.name.as_str(), "agent-test");
        assert_eq!(plan.command, ["testagent", "-v"]);
        let files = (plan.provider.settings_files)(&SettingsInputs {
            guest: &plan.image.facts.guest,
            settings: plan.settings.as_ref().unwrap(),
            prompt: None,
            supervise: None,
        });
        assert_eq!((files[0].path.as_str(), files[0].content.as_str()), (".testagent/model", "m"));
        assert_eq!(plan.provider.skills_dir, ".testagent/skills");
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<LaunchPlan>(&json).unwrap(), plan);
    }

    #[test]
    fn a_registered_agents_login_is_read_by_its_own_layout() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".testagent.json");
        std::fs::write(&file, r#"{"access":"one"}"#).unwrap();
        let provider: Provider = "testagent".parse().unwrap();
        assert_eq!(Login::read(provider, &file).unwrap().token.as_str(), "one");
    }

    #[test]
    fn an_unknown_agent_is_an_error_and_not_another_agent() {
        assert!("nobody".parse::<Provider>().is_err());
        assert!(serde_json::from_str::<Provider>("\"nobody\"").is_err());
    }

    #[test]
    fn names_are_unique_and_can_name_a_bottle() {
        let names: Vec<_> = Provider::all().map(|p| p.as_str()).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), unique.len());
        assert!(names.iter().all(|name| name.parse::<crate::values::Slug>().is_ok()));
    }
}
