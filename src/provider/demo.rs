//! The demo: live checks that show what a bottle is, against a local upstream that the launch runs.

use bottle_channel::SELF;
use bottle_policy::{HostPattern, Inject, Place, Push, Route, Scheme, TokenName};

use super::agent::{Agent, BuiltIn, Contribution, LiveFacts, Repository, TokenSource};
use crate::values::{ByteSize, Resources};

/// Name of the demo's token.
pub const DEMO_TOKEN: &str = "DEMO_TOKEN";
/// Host that the demo's route names. The launch fills in `connect` and `ca`.
pub const DEMO_HOST: &str = "hello.demo.test";
/// Repository that the demo pushes to.
const REPOSITORY: &str = "https://hello.demo.test/demo.git";

pub(super) static AGENT: Agent = Agent {
    name: "demo",
    title: "the demo",
    image: "demo",
    built_in: Some(BuiltIn {
        resources: Resources { cpus: 1, memory: ByteSize::mib(512), disk: ByteSize::mib(1024) },
        copies_workspace: false,
    }),
    takes_command: false,
    has_settings: false,
    resumable: false,
    resumes_with_arguments: false,
    commits_as_operator: false,
    needs_demo_upstream: true,
    skills_dir: ".claude/skills",
    first_run_prompts: &[],
    login: None,
    contribution: |_| contribution(),
    is_argument: |_| false,
    settings_files: |_| Vec::new(),
    live_command: Some(live_command),
};

fn contribution() -> Contribution {
    let mut out =
        Contribution { command: vec!["bottle-demo".to_owned()], ..Contribution::default() };
    // All constants parse (the test below says so). The colon keeps the route's name apart from
    // every name that a manifest can give a route.
    if let (Ok(host), Ok(token)) =
        (DEMO_HOST.parse::<HostPattern>(), DEMO_TOKEN.parse::<TokenName>())
    {
        out.tokens.insert(token.clone(), TokenSource::Generated);
        let inject = Some(Inject {
            place: Place::Header("authorization".to_owned()),
            scheme: Scheme::Bearer,
            token,
        });
        out.routes.push(Route { inject, ..Route::to("demo:hello", host) });
    }
    if let (Ok(name), Ok(url), Ok(branches)) =
        ("demo".parse(), REPOSITORY.parse(), "{slug}/*".parse())
    {
        out.repository = Some(Repository { name, url, push: Push::to(vec![branches]) });
    }
    out
}

/// The guest program's own demo, with what it compares its machine to.
fn live_command(facts: &LiveFacts) -> Vec<String> {
    let canary_port = facts.canary_port.to_string();
    [
        SELF,
        "demo",
        "--host-kernel",
        &facts.host_kernel,
        "--canary",
        &canary_port,
        "--allowed-host",
        DEMO_HOST,
        "--denied-host",
        "example.com",
        "--repository",
        REPOSITORY,
    ]
    .map(str::to_owned)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_has_its_route_and_token() {
        let demo = contribution();
        assert!(demo.repository.is_some());
        assert_eq!((demo.routes.len(), demo.tokens.len()), (1, 1));
    }
}
