//! What the plan decides, how it is shown, and that it is a function of its input.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;

use bottle::manifest::{Manifest, MemFiles, TokenSource, parse};
use bottle::plan::{
    Daemon, Engine, Host, ImageFacts, LaunchPlan, Options, PlanError, diff, not_reloadable, plan,
    render, replan,
};
use bottle::provider::DEMO_HOST;
use bottle::values::Guest;

fn facts() -> ImageFacts {
    ImageFacts {
        image: "/nix/store/abc-demo.erofs".into(),
        guest: Guest {
            user: "node".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/node".into(),
            workdir: "/home/node/workspace".into(),
            path: "/usr/bin:/bin".into(),
        },
    }
}

fn with_env<T>(env: &[(&str, &str)], run: impl FnOnce(&Host<'_>) -> T) -> T {
    let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    let images =
        ["demo", "agent-claude", "agent-codex"].map(|name| (name.parse().unwrap(), facts())).into();
    let engine = Engine { name: "qemu".into(), reason: "TCG, as /dev/kvm is not usable".into() };
    run(&Host { env: &lookup, engine, images, identity: None, logins: BTreeMap::new() })
}

fn read(text: &str) -> Manifest {
    let mut files = MemFiles::default();
    for name in ["prompts/x.md", "skills/review/SKILL.md"] {
        files.files.insert(name.into(), b"Be brief.\n".to_vec());
    }
    files.files.insert(
        "ca.pem".into(),
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_vec(),
    );
    parse(text.as_bytes(), Path::new("bottle.toml"), &files).unwrap()
}

fn plan_of(
    text: &str,
    agent: &str,
    env: &[(&str, &str)],
    options: &Options,
) -> Result<LaunchPlan, PlanError> {
    with_env(env, |host| plan(&read(text), agent, host, options))
}

/// A plan for agent `a` in a bottle of these keys.
fn bottle(keys: &str) -> LaunchPlan {
    let text = format!(
        "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.d]\n{keys}\n"
    );
    plan_of(&text, "a", &[("SET", "value")], &Options::default()).unwrap()
}

#[test]
fn the_demo_needs_no_manifest() {
    let plan = with_env(&[], |host| plan(&Manifest::built_in(), "demo", host, &Options::default()))
        .unwrap();
    assert_eq!(plan.manifest, None);
    assert_eq!(plan.daemons, [Daemon::Egress, Daemon::GitGate]);
    assert_eq!((plan.endpoints.len(), plan.endpoints[0].port), (2, 9099));
    let route = &plan.policy.routes[0];
    assert_eq!(
        (route.host.as_str(), route.port, route.connect, route.allow_private),
        (DEMO_HOST, 443, None, false)
    );
    assert_eq!(plan.tokens.values().collect::<Vec<_>>(), [&TokenSource::Generated]);
    assert!(plan.warnings.is_empty());
    assert_ne!(plan.policy_digest, plan.policy.digest(), "its repository is a part of it");
    assert_eq!(
        render(&plan),
        "\
agent      demo (provider demo, bottle demo)
engine     qemu: TCG, as /dev/kvm is not usable
image      demo  /nix/store/abc-demo.erofs
user       node (1000:1000), in /home/node/workspace
resources  1 CPU, 512 MiB memory, 1 GiB disk
command    bottle-demo
reach      hello.demo.test:443  any method  /*  authorization: bearer <DEMO_TOKEN>, route demo:hello
tokens     DEMO_TOKEN  made for this launch
git        https://hello.demo.test/demo.git  push {slug}/*
"
    );
}

#[test]
fn everything_is_shown() {
    let env = [("HOST_VAR", "/srv"), ("GITHUB_TOKEN", "never shown")];
    let plan = plan_of(include_str!("data/full.toml"), "dev", &env, &Options::default()).unwrap();
    assert_eq!(
        render(&plan),
        "\
agent      dev (provider command, bottle dev)
engine     qemu: TCG, as /dev/kvm is not usable
image      demo  /nix/store/abc-demo.erofs
user       node (1000:1000), in /home/node/workspace
resources  4 CPUs, 2 GiB memory, 10 GiB disk
command    sh -c 'echo hi'
prompt     10 bytes, sha256 96fb1c7f068c
skills     review  /project/skills/review
workspace  a copy of /project
egress     by mitmproxy+pipelock
reach      api.github.com:443           GET         /repos/*           authorization: bearer <GITHUB_TOKEN>, route github, via 127.0.0.1:8443, own CA
           1pkg.example.com:443         any method  /*                 x-api-key: <T_1PKG_EXAMPLE_COM_TOKEN>, scan redacts at most, scan aws-key: warn, scan jwt: off, scan responses, ≤ 1500 B a body, budget 50 MiB up and 2 GB down
           *.githubusercontent.com:443  any method  /*                 authorization: bearer <GH_TOKEN>, route gh, and githubusercontent.com itself
           deb.debian.org:80            any method  /*                 PLAIN HTTP, SCAN OFF
           maps.example.com:443         any method  /v*/tiles/**/last  ?api[key]=<MAPS_KEY>, no WebSocket, scan only warns, ≤ 10 MB a body, budget 50 MB up, ≤ 60/m, first byte ≤ 15m, idle ≤ 90s, total ≤ 2h
           pinned.example.com:443       any method  /*                 NO INTERCEPTION, budget 1 GiB down, ≤ 10/s
tokens     GH_TOKEN                  from command gh auth token, again every 10m
           GITHUB_TOKEN              from variable GITHUB_TOKEN
           MAPS_KEY                  from variable MAPS_KEY
           OWN_FORGE_TOKEN           from file /home/op/.gitea
           READ_FORGE_TOKEN          from command pass gl
           T_1PKG_EXAMPLE_COM_TOKEN  from file /home/op/.token, again every 90s
git        git@github.com:me/x.git                       push agent/*, {agent}/*, not agent/release, tags agent-*, ALLOWED FINDINGS: 1, attested by /home/op/.ssh/attest  key /home/op/.ssh/id
           https://github.com/me/lib                     read only       token GITHUB_TOKEN
           ssh://git@git.example.com:2222/group/own.git  push {agent}/*  deploy key of group/own by https://git.example.com/api/v1 with OWN_FORGE_TOKEN
           git@gitlab.com:group/sub/read.git             read only       read-only deploy key of group/sub/read by https://gitlab.com/api/v4 with READ_FORGE_TOKEN
env        A  literal
           C  /srv/x ${not}
           D  ?really
           B  (asked: What is B)
supervise  the agent may propose changes
warning    the variable MAPS_KEY, source of token MAPS_KEY, is not set on this host
           route 1pkg.example.com is not scanned by jwt
           route gh sends token GH_TOKEN to githubusercontent.com and every name below it
           route deb.debian.org is not scanned: credentials that the agent finds can leave by it
           route pinned.example.com is not intercepted: nobody sees, scans or limits the requests that go through it
"
    );
    assert_eq!(plan.daemons, [Daemon::Egress, Daemon::GitGate, Daemon::Supervise]);
    assert_eq!(plan.endpoints.iter().map(|e| e.port).collect::<Vec<_>>(), [9099, 9420, 9100]);
    assert_eq!(plan.questions[0].question, "What is B");
}

#[test]
fn an_answer_makes_the_plan_that_the_command_line_would_have_made() {
    let env = [("HOST_VAR", "/srv")];
    let full = include_str!("data/full.toml");
    let answers = BTreeMap::from([("B".parse().unwrap(), "four".to_owned())]);
    let asked = plan_of(full, "dev", &env, &Options::default()).unwrap();
    let given = Options { env: answers.clone(), ..Options::default() };
    assert_eq!(
        asked.clone().with_answers(answers).unwrap(),
        plan_of(full, "dev", &env, &given).unwrap()
    );
    let answer = |text: &str| BTreeMap::from([("B".parse().unwrap(), text.to_owned())]);
    assert!(asked.clone().with_answers(answer("a\0b")).is_err());
    let secret = asked.clone().with_answers(answer("ghp_0123456789abcdefghijklmnopqrstuvwxyz"));
    assert_eq!(secret.unwrap().warnings.len(), asked.warnings.len() + 1);
}

#[test]
fn a_plan_survives_json_and_holds_no_token_value() {
    let env = [("HOST_VAR", "/srv"), ("GITHUB_TOKEN", "planted-value")];
    let plan = plan_of(include_str!("data/full.toml"), "dev", &env, &Options::default()).unwrap();
    let json = serde_json::to_string_pretty(&plan).unwrap();
    assert!(!json.contains("planted-value"));
    assert_eq!(serde_json::from_str::<LaunchPlan>(&json).unwrap(), plan);
}

#[test]
fn unknown_agents_images_and_variables_are_named() {
    let fails = |text: &str, agent: &str| {
        plan_of(text, agent, &[], &Options::default()).unwrap_err().to_string()
    };
    assert_eq!(fails("version = 1", "dmeo"), "no agent `dmeo`\n  hint: did you mean `demo`?");
    assert_eq!(
        fails("version = 1", "\u{1b}x/../y"),
        "no agent `\\u{1b}x/../y`\n  hint: agents here: claude, codex, demo"
    );
    let bottle = "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"command\"\n[bottles.d]\nimage = \"dmo\"\nenv.A = \"${NOPE}\"\n";
    assert_eq!(
        fails(bottle, "a"),
        "bottle.toml:6:9: no image `dmo`\n  hint: did you mean `demo`?\n\
         bottle.toml:7:9: the variable NOPE is not set on this host\n  hint: export NOPE=…, or pass --env A=…\n\
         bottle.toml:2:9: agent `a` has no command\n  hint: write command = [\"…\"], or name one: bottle launch NAME -- CMD"
    );
}

/// A plan for agent `a` of this provider, with these settings.
fn agent(provider: &str, settings: &str, env: &[(&str, &str)], options: &Options) -> LaunchPlan {
    let text = format!(
        "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"{provider}\"\nprompt = \"x\"\n[bottles.d]\n[bottles.d.provider.{provider}]\n{settings}\n"
    );
    plan_of(&text, "a", env, options).unwrap()
}

#[test]
fn claude_has_its_route_its_placeholder_and_its_command_line() {
    let plan = agent("claude", "", &[("ANTHROPIC_API_KEY", "planted")], &Options::default());
    assert!(plan.image.name.as_str() == "agent-claude");
    let shown = render(&plan);
    assert!(
        shown.contains("api.anthropic.com:443  any method  /v1/* /api/*  x-api-key: <ANTHROPIC_API_KEY>, route claude:api, scan redacts"),
        "{shown}"
    );
    assert_eq!(
        plan.command.join(" "),
        "claude --dangerously-skip-permissions --append-system-prompt-file /home/node/.bottle/prompt.md"
    );
    assert_eq!(plan.provider_env["ANTHROPIC_API_KEY"], bottle::provider::PLACEHOLDER);
    assert!(!serde_json::to_string(&plan).unwrap().contains("planted"));
    // The first variable that the host has says as what it goes out.
    let oauth = agent(
        "claude",
        "",
        &[("ANTHROPIC_API_KEY", "a"), ("CLAUDE_CODE_OAUTH_TOKEN", "b")],
        &Options::default(),
    );
    assert!(
        render(&oauth).contains("authorization: bearer <CLAUDE_CODE_OAUTH_TOKEN>"),
        "{}",
        render(&oauth)
    );
    assert!(
        oauth.provider_env.contains_key("CLAUDE_CODE_OAUTH_TOKEN")
            && !oauth.provider_env.contains_key("ANTHROPIC_API_KEY")
    );
    let asking = agent(
        "claude",
        "ask = true\nmodel = \"opus\"",
        &[],
        &Options { resume: true, ..Options::default() },
    );
    assert_eq!(asking.command[3..], ["--model", "opus", "--continue"], "{:?}", asking.command);
    assert!(asking.command.iter().all(|w| w != "--dangerously-skip-permissions"));
    let words = Options { command: vec!["-p".into(), "task".into()], ..Options::default() };
    assert_eq!(agent("claude", "", &[], &words).command[4..], ["-p", "task"]);
    let whole =
        Options { command: vec!["claude".into(), "--version".into()], ..Options::default() };
    assert_eq!(agent("claude", "", &[], &whole).command, ["claude", "--version"]);
}

#[test]
fn codex_has_its_route_and_takes_exec() {
    let words = Options { command: vec!["exec".into(), "task".into()], ..Options::default() };
    let plan = agent("codex", "", &[("OPENAI_API_KEY", "planted")], &words);
    assert!(
        render(&plan).contains("api.openai.com:443  any method  /v1/*  authorization: bearer <OPENAI_API_KEY>, route codex:api"),
        "{}",
        render(&plan)
    );
    assert_eq!(plan.command, ["codex", "exec", "task"]);
    let resumed = agent("codex", "", &[], &Options { resume: true, ..Options::default() });
    assert_eq!(resumed.command, ["codex", "--no-daemon", "resume", "--last"]);
}

#[test]
fn another_endpoint_is_the_only_route_and_what_the_agent_is_told() {
    let settings = "base_url = \"https://llm.corp.example:8443/anthropic/\"\ntoken = { file = \"~/.token\" }\nauth = \"bearer\"\nca_file = \"ca.pem\"";
    let plan = agent("claude", settings, &[], &Options::default());
    assert_eq!(plan.policy.routes.len(), 1);
    let shown = render(&plan);
    assert!(
        shown.contains("llm.corp.example:8443  any method  /anthropic/*  authorization: bearer <CLAUDE_TOKEN>, route claude:api, own CA"),
        "{shown}"
    );
    assert_eq!(plan.provider_env["ANTHROPIC_BASE_URL"], "https://llm.corp.example:8443/anthropic/");
}

#[test]
fn a_missing_credential_is_found_before_anything_starts() {
    let none = |_: &str| false;
    for (provider, variable) in [("claude", "ANTHROPIC_API_KEY"), ("codex", "OPENAI_API_KEY")] {
        let e = bottle::credentials::require(&agent(provider, "", &[], &Options::default()), &none)
            .unwrap_err();
        assert!(
            e.to_string().contains(variable) && e.hint_text().unwrap().contains("--login"),
            "{e}"
        );
        assert!(
            bottle::credentials::require(&agent(provider, "", &[], &Options::default()), &|name| {
                name == variable
            })
            .is_ok()
        );
    }
    let text = "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"claude\"\n[bottles.d.provider.claude]\nforward_host_credentials = true\n";
    let e = plan_of(text, "a", &[], &Options::default()).unwrap_err().to_string();
    assert!(
        e.contains("bottle.toml:5:21: claude is not logged in on this host\n  hint: claude"),
        "{e}"
    );
}

#[test]
fn a_token_of_the_provider_cannot_be_redefined() {
    let text = "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"demo\"\n[[bottles.d.egress]]\nhost = \"a.b\"\n\
                inject = { token = { env = \"DEMO_TOKEN\" } }\n";
    let error = plan_of(text, "a", &[], &Options::default()).unwrap_err().to_string();
    assert!(error.starts_with("bottle.toml:5:1: the token name DEMO_TOKEN belongs to"), "{error}");
}

#[test]
fn the_command_line_answers_and_replaces() {
    let options = Options {
        slug: Some("other".parse().unwrap()),
        command: vec!["make".into(), "a b".into()],
        env: BTreeMap::from([
            ("B".parse().unwrap(), "answer".to_owned()),
            ("C".parse().unwrap(), "mine".to_owned()),
        ]),
        ..Options::default()
    };
    let plan = plan_of(include_str!("data/full.toml"), "dev", &[], &options).unwrap();
    assert!(plan.questions.is_empty());
    assert_eq!(
        (plan.env[&"B".parse().unwrap()].as_str(), plan.env[&"C".parse().unwrap()].as_str()),
        ("answer", "mine")
    );
    assert!(
        render(&plan).contains("command    make 'a b'\n")
            && render(&plan).contains("(provider command, bottle dev), as other\n")
    );
    let reserved = Options {
        env: BTreeMap::from([("HOME".parse().unwrap(), "/".to_owned())]),
        ..Options::default()
    };
    assert!(
        plan_of("version = 1", "demo", &[], &reserved)
            .unwrap_err()
            .to_string()
            .starts_with("--env: the variable HOME is reserved")
    );
}

#[test]
fn warnings_point_to_the_safer_way() {
    let warned = |keys: &str| bottle(keys).warnings.join("\n");
    let key = "sk-ant-api03-abcdefghijklmnop";
    assert!(warned(&format!("env.KEY = \"{key}\"")).starts_with(
        "KEY looks like an API key and would be readable in the guest; let a route inject"
    ));
    assert_eq!(warned("env.KEY = \"production\""), "");
    let route = |more: &str| format!("[[bottles.d.egress]]\nhost = \"a.b\"\n{more}");
    assert!(
        warned(&route("tls = false\ninject = { token = { env = \"SET\" } }"))
            .contains("over plain http")
    );
    assert!(
        warned(&route("inject = { token = { env = \"UNSET\" } }"))
            .contains("UNSET, source of token UNSET, is not set")
    );
    assert_eq!(warned(&route("inject = { token = { env = \"SET\" } }")), "");
    assert!(
        warned(&route("[[bottles.d.egress]]\nname = \"x\"\nhost = \"a.b\"\npaths = [\"/y\"]"))
            .contains("route x is never used: a.b before it")
    );
    let wild = "[[bottles.d.egress]]\nhost = \"*.a.b\"\n[[bottles.d.egress]]\nhost = \"*.x.a.b\"\n";
    assert!(warned(wild).contains("route *.x.a.b is never used"));
    assert_eq!(
        warned(
            "[[bottles.d.egress]]\nhost = \"*.x.a.b\"\n[[bottles.d.egress]]\nhost = \"*.a.b\"\n"
        ),
        ""
    );
    assert_eq!(
        warned(&route(
            "paths = [\"/y/*\"]\n[[bottles.d.egress]]\nname = \"x\"\nhost = \"a.b\"\npaths = [\"/y\"]"
        )),
        ""
    );
    assert!(warned(&route("passthrough = true")).contains("a.b is not intercepted"));
    assert!(warned(&route("scan = \"off\"")).contains("a.b is not scanned: "));
    assert_eq!(warned(&route("scan = \"warn\"")), "");
    assert!(
        warned("[[bottles.d.egress]]\nhost = \"*.a.b\"\napex = true")
            .contains("reaches a.b and every name below it")
    );
    let two = |first: &str, second: &str| {
        warned(&format!(
            "[[bottles.d.egress]]\nname = \"1\"\n{first}\n[[bottles.d.egress]]\nname = \"2\"\n{second}"
        ))
    };
    // An apex is covered by an apex only, a tunnel is opened or not by the first route that names
    // its host, and `**` may be nothing.
    for (first, second, never) in [
        ("host = \"*.a.b\"\napex = true", "host = \"a.b\"", true),
        ("host = \"*.a.b\"", "host = \"*.a.b\"\napex = true\nport = 443", false),
        ("host = \"*.a.b\"\napex = true", "host = \"*.a.b\"", true),
        ("host = \"*.a.b\"\npaths = [\"/x\"]", "host = \"c.a.b\"\npassthrough = true", true),
        ("host = \"c.a.b\"\npassthrough = true", "host = \"*.a.b\"", false),
        (
            "host = \"a.b\"\npaths = [\"/a/*/z/*\"]",
            "host = \"a.b\"\npaths = [\"/a/**/z/*\"]",
            false,
        ),
        ("host = \"a.b\"\npaths = [\"/a/*\"]", "host = \"a.b\"\npaths = [\"/a/*/z\"]", true),
        ("host = \"a.b\"\npaths = [\"/a*\"]", "host = \"a.b\"\npaths = [\"/a/*\"]", false),
    ] {
        assert_eq!(
            two(first, second).contains("route 2 is never used"),
            never,
            "{first} {second}: {}",
            two(first, second)
        );
    }
    let workspace = "workspace = { mode = \"copy\" }\n[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = { file = \"token\" } }";
    assert!(warned(workspace).contains("the file of token A_B_TOKEN is in the workspace"));
}

#[test]
fn secret_looking_values_are_not_printed() {
    let key = "ghp_abcdefghijklmnopqrstuvwxyz0123456789";
    let plan = bottle(&format!(
        "env.KEY = \"{key}\"\n[[bottles.d.egress]]\nhost = \"a.b\"\ninject = {{ token = {{ command = [\"get\", \"{key}\"] }} }}"
    ));
    assert_eq!(plan.env[&"KEY".parse().unwrap()], key);
    assert!(!render(&plan).contains(key), "{}", render(&plan));
    assert!(!serde_json::to_string(&plan.redacted()).unwrap().contains(key));
    assert!(render(&plan).contains("KEY  (looks like a GitHub token: 40 characters, not shown)"));
}

#[test]
fn nothing_from_a_file_drives_the_terminal() {
    let keys = "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"demo\"\n[bottles.d]\n\
                env = { A = \"\\u202ex\\u200b\\ny\", B = \"?ask\\u2066\", C = \"${EVIL}\" }\n";
    let plan = plan_of(keys, "a", &[("EVIL", "\u{1b}[2J\u{7}\r")], &Options::default()).unwrap();
    let text = render(&plan);
    assert!(
        text.contains("\\u{202e}x\\u{200b}\\ny")
            && text.contains("ask\\u{2066}")
            && text.contains("\\u{1b}[2J\\u{7}\\r"),
        "{text}"
    );
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    let long = bottle(&format!("env.A = \"{}\"", "a".repeat(5000)));
    assert!(render(&long).contains("… (5000 characters)") && render(&long).len() < 2000);
}

#[test]
fn the_diff_shows_what_a_launch_would_gain_and_lose() {
    let a = bottle("[[bottles.d.egress]]\nhost = \"a.b\"\n[[bottles.d.egress]]\nhost = \"c.d\"\n");
    let b = bottle(
        "resources.cpus = 4\n[[bottles.d.egress]]\nhost = \"a.b\"\n[[bottles.d.egress]]\nhost = \"e.f\"\nmethods = [\"GET\"]\n",
    );
    assert_eq!(
        diff(&a, &b),
        [
            "- resources: 2 CPUs, 2 GiB memory, 10 GiB disk",
            "- reach: c.d:443  any method  /*",
            "+ resources: 4 CPUs, 2 GiB memory, 10 GiB disk",
            "+ reach: e.f:443  GET  /*",
        ]
    );
    assert!(diff(&a, &a).is_empty());
    let swapped =
        bottle("[[bottles.d.egress]]\nhost = \"c.d\"\n[[bottles.d.egress]]\nhost = \"a.b\"\n");
    assert_eq!(diff(&a, &swapped).len(), 2);
    assert_ne!(a.policy_digest, swapped.policy_digest);
}

#[test]
fn the_chain_is_in_the_digest_and_else_in_nothing() {
    let route = "[[bottles.d.egress]]\nhost = \"a.b\"\n";
    let of = |chain: &str| bottle(&format!("bundle = {{ egress = \"{chain}\" }}\n{route}"));
    let (plain, ours, theirs, both) =
        (bottle(route), of("bottle"), of("mitmproxy"), of("mitmproxy+pipelock"));
    assert_eq!(plain, ours);
    assert!(!serde_json::to_string(&ours).unwrap().contains("bundle_egress"));
    assert!(
        serde_json::to_string(&both).unwrap().contains("\"bundle_egress\":\"mitmproxy+pipelock\"")
    );
    assert_eq!(plain.policy_digest, plain.policy.digest());
    assert!(
        plain.policy_digest != theirs.policy_digest && theirs.policy_digest != both.policy_digest
    );
    assert_eq!(diff(&ours, &both), ["+ egress: by mitmproxy+pipelock"]);
    assert!(
        theirs.warnings[0].starts_with("egress by mitmproxy scans nothing")
            && both.warnings.is_empty()
    );
}

const RUNNING: &str = "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.d]\n\
     env = { LITERAL = \"x\", HOST = \"${SET}\", ASKED = \"?what\", KEY = \"ghp_abcdefghijklmnopqrstuvwxyz0123456789\" }\n\
     [[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = { env = \"ONE\" } }\n\
     [[bottles.d.egress]]\nhost = \"c.d\"\ninject = { token = { file = \"~/two\", refresh = \"1h\" } }\n";

/// What a launch remembers of its plan.
fn remembered(options: &Options) -> LaunchPlan {
    let mut plan =
        plan_of(RUNNING, "a", &[("SET", "at launch"), ("ONE", "1")], options).unwrap().redacted();
    plan.env.retain(|name, _| !options.env.contains_key(name));
    serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap()
}

#[test]
fn a_reload_takes_new_routes_and_nothing_else() {
    let answered = Options {
        env: BTreeMap::from([("ASKED".parse().unwrap(), "secret".to_owned())]),
        ..Options::default()
    };
    let running = remembered(&answered);
    assert!(!serde_json::to_string(&running).unwrap().contains("secret"));
    // Not one variable of the launch is set here, and there is nobody to ask.
    let again = |text: &str| replan(&running, &read(text), &|_| None);
    let others = |text: &str| not_reloadable(&running, &again(text).unwrap());
    assert_eq!(others(RUNNING), Vec::<String>::new());
    assert_eq!(again(RUNNING).unwrap().policy, running.policy);
    for (from, to) in [
        ("host = \"a.b\"", "host = \"a.b\"\nmethods = [\"GET\"]\nscan = \"warn\"\nrate = \"1/s\""),
        ("host = \"a.b\"", "host = \"*.a.b\"\nname = \"a.b\""),
        (
            "[[bottles.d.egress]]\nhost = \"a.b\"",
            "[[bottles.d.egress]]\nhost = \"e.f\"\n[[bottles.d.egress]]\nhost = \"a.b\"",
        ),
        // A token that is not used any more stays in the daemon, for nothing.
        ("inject = { token = { env = \"ONE\" } }", ""),
        // Another use of a token that is there.
        ("file = \"~/two\", refresh = \"1h\"", "env = \"ONE\""),
    ] {
        let text = RUNNING.replace(from, to);
        assert_ne!(again(&text).unwrap().policy, running.policy, "{to}");
        assert_eq!(others(&text), Vec::<String>::new(), "{to}");
    }
    for (from, to, said) in [
        ("env = \"ONE\"", "env = \"OTHER\"", "+ tokens: OTHER"),
        ("file = \"~/two\"", "file = \"~/other\"", "+ tokens: C_D_TOKEN  from file /home/op/other"),
        ("1h", "2h", "again every 2h"),
        ("[\"true\"]", "[\"false\"]", "+ command: false"),
        ("LITERAL = \"x\"", "LITERAL = \"y\"", "+ env: LITERAL  y"),
        ("LITERAL = \"x\"", "MORE = \"x\"", "+ env: MORE  x"),
        ("[bottles.d]\n", "[bottles.d]\nresources.cpus = 3\n", "+ resources: 3 CPUs"),
        ("[bottles.d]\n", "[bottles.d]\nimage = \"other\"\n", "+ image: other"),
        ("[bottles.d]\n", "[bottles.d]\nsupervise = true\n", "+ supervise"),
        ("[bottles.d]\n", "[bottles.d]\nbundle.egress = \"mitmproxy\"\n", "+ egress: by mitmproxy"),
        ("command = [", "prompt = \"do\"\ncommand = [", "+ prompt: 2 bytes"),
        ("ASKED = \"?what\"", "ASKED = \"?what\", TOO = \"?else\"", "+ env: TOO  (asked: else)"),
    ] {
        let said_of = others(&RUNNING.replacen(from, to, 1)).join("\n");
        assert!(said_of.contains(said), "{to}: {said_of}");
    }
    // What the plan shows shortened is compared whole.
    let long = |end: &str| {
        RUNNING.replace("LITERAL = \"x\"", &format!("LITERAL = \"{}{end}\"", "x".repeat(300)))
    };
    let mut before =
        plan_of(&long("1"), "a", &[("SET", "s"), ("ONE", "1")], &answered).unwrap().redacted();
    before.env.remove(&"ASKED".parse().unwrap());
    let after = replan(&before, &read(&long("2")), &|_| None).unwrap();
    assert_eq!(not_reloadable(&before, &after), ["+ details that the plan does not show"]);
    assert!(matches!(again("version = 1"), Err(PlanError::UnknownAgent { .. })));
}

#[test]
fn a_reload_keeps_the_command_and_name_of_the_launch() {
    let options = Options {
        slug: Some("other".parse().unwrap()),
        command: vec!["bash".into()],
        env: BTreeMap::from([("ASKED".parse().unwrap(), "x".to_owned())]),
        ..Options::default()
    };
    let running = remembered(&options);
    let again =
        replan(&running, &read(&RUNNING.replace("[\"true\"]", "[\"false\"]")), &|_| None).unwrap();
    assert_eq!(
        (again.slug.as_str(), again.command.as_slice()),
        ("other", ["bash".to_owned()].as_slice())
    );
    assert_eq!(not_reloadable(&running, &again), Vec::<String>::new());
}

/// Random manifests from a seed: any valid one must plan to the same bytes each time, whatever the
/// order of its tables.
#[test]
fn planning_is_deterministic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut planned = 0;
    for round in 0..300 {
        let mut tables = Vec::new();
        let mut env: Vec<String> = (0..next(6))
            .map(|i| format!("E{i} = \"{}\"", ["x", "?ask", "${SET}", "$${y}"][next(4) as usize]))
            .collect();
        env.push("SET_TOO = \"1\"".to_owned());
        let routes: Vec<String> = (0..next(8))
            .map(|i| {
                let inject =
                    ["", "inject = { token = { env = \"SET\" } }\n", "inject = { token = { file = \"~/t\" } }\n"][next(3) as usize];
                let paths = ["", "paths = [\"/a/*\", \"/b\"]\n"][next(2) as usize];
                format!("[[bottles.d.egress]]\nname = \"r{i}\"\nhost = \"h{}.example\"\nport = {}\n{paths}{inject}", next(4), 440 + next(3))
            })
            .collect();
        let routes = routes.concat();
        tables.push("[agents.a]\nbottle = \"d\"\nprovider = \"demo\"\n".to_owned());
        tables.push(
            "[agents.b]\nbottle = \"d\"\nprovider = \"command\"\ncommand = [\"x\"]\n".to_owned(),
        );
        tables.push(format!("[bottles.d.env]\n{}\n", env.join("\n")));
        tables.push(format!(
            "[bottles.d.resources]\ncpus = {}\nmemory = \"{}MiB\"\n",
            1 + next(64),
            256 + next(1024)
        ));
        let text = |tables: &[String]| format!("version = 1\n{}{routes}", tables.concat());
        let forward = text(&tables);
        tables.reverse();
        let backward = text(&tables);
        let Ok(manifest) =
            parse(forward.as_bytes(), Path::new("bottle.toml"), &MemFiles::default())
        else {
            continue;
        };
        let other =
            parse(backward.as_bytes(), Path::new("bottle.toml"), &MemFiles::default()).unwrap();
        for agent in ["a", "b"] {
            let json = |m: &Manifest| {
                with_env(&[("SET", "v")], |host| {
                    serde_json::to_string(&plan(m, agent, host, &Options::default()).unwrap())
                })
            };
            assert_eq!(json(&manifest).unwrap(), json(&manifest).unwrap(), "round {round}");
            assert_eq!(
                json(&manifest).unwrap(),
                json(&other).unwrap(),
                "round {round}:\n{forward}"
            );
            planned += 1;
        }
    }
    assert!(planned > 200, "only {planned} random manifests were valid");
}
