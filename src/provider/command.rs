//! Any command: nothing is added for it.

use super::agent::{Agent, Contribution};

pub(super) static AGENT: Agent = Agent {
    name: "command",
    title: "any command",
    image: "demo",
    built_in: None,
    takes_command: true,
    has_settings: false,
    resumable: false,
    resumes_with_arguments: false,
    commits_as_operator: true,
    needs_demo_upstream: false,
    skills_dir: ".claude/skills",
    first_run_prompts: &[],
    login: None,
    contribution: |_| Contribution::default(),
    is_argument: |_| false,
    settings_files: |_| Vec::new(),
    live_command: None,
};
