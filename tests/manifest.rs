//! What the manifest parser accepts, and what it says about what it does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/skip.rs"]
mod skip;

use std::path::Path;

use bottle::manifest::{
    EgressChain, EnvPart, EnvValue, Interval, Manifest, ManifestErrors, MemFiles, TokenSource,
    WorkspaceMode, neutral, parse,
};
use bottle::manifest_files::{Search, find, load};
use bottle_policy::{Action, Budget, Forge, Place, Scheme, Stale, Timeouts};
use skip::{impossible, skip};

const CERT: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn files() -> MemFiles {
    let mut files = MemFiles::default();
    for (name, text) in [
        ("prompts/x.md", "Be brief.\n"),
        (
            "ca.pem",
            &format!("-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n{CERT}"),
        ),
        ("empty.pem", "nothing here"),
        ("skills/review/SKILL.md", "# Review"),
    ] {
        files.files.insert(name.to_owned(), text.as_bytes().to_vec());
    }
    files
}

fn read(text: &str) -> Result<Manifest, ManifestErrors> {
    parse(text.as_bytes(), Path::new("bottle.toml"), &files())
}

#[test]
fn everything_parses() {
    let manifest = read(include_str!("data/full.toml")).unwrap();
    let agent = &manifest.agents[&"dev".parse().unwrap()];
    assert_eq!(
        (agent.provider, agent.prompt.as_deref()),
        ("command".parse().unwrap(), Some("Be brief.\n"))
    );
    assert_eq!(agent.skills[0].dir, Path::new("/project/skills/review"));
    let bottle = &manifest.bottles[&"dev".parse().unwrap()];
    let env = |name: &str| bottle.env[&name.parse().unwrap()].value.clone();
    let text = |t: &str| EnvPart::Text(t.to_owned());
    assert_eq!(env("A"), EnvValue::Template(vec![text("literal")]));
    assert_eq!(env("B"), EnvValue::Ask("What is B".to_owned()));
    assert_eq!(
        env("C"),
        EnvValue::Template(vec![EnvPart::HostVar("HOST_VAR".parse().unwrap()), text("/x ${not}")])
    );
    assert_eq!(env("D"), EnvValue::Template(vec![text("?really")]));
    assert_eq!(bottle.workspace.mode, WorkspaceMode::Copy);
    assert_eq!(
        (
            bottle.resources.cpus,
            bottle.resources.memory.get() >> 20,
            bottle.resources.disk.get() >> 20
        ),
        (4, 2048, 10240)
    );
    let routes: Vec<_> = bottle.egress.iter().map(|r| &r.route).collect();
    assert_eq!(routes[0].inject.as_ref().unwrap().token.as_str(), "GITHUB_TOKEN");
    assert_eq!(routes[1].inject.as_ref().unwrap().token.as_str(), "T_1PKG_EXAMPLE_COM_TOKEN");
    assert_eq!(routes[1].inject.as_ref().unwrap().scheme, Scheme::Raw);
    assert_eq!(
        bottle.egress[1].token,
        Some(TokenSource::File {
            path: "/home/op/.token".into(),
            refresh: Some(Interval::seconds(90))
        })
    );
    let scan = &routes[1].scan;
    assert_eq!(
        (scan.limit, scan.rules["aws-key"], scan.rules["jwt"], scan.responses),
        (Some(Action::Redact), Action::Warn, Action::Off, true)
    );
    assert_eq!(
        (routes[1].max_body, routes[1].budget),
        (Some(1500), Budget { up: Some(50 << 20), down: Some(2_000_000_000), ..Budget::default() })
    );
    assert!(routes[2].apex && routes[2].names("githubusercontent.com", 443));
    assert_eq!(bottle.egress[2].token.as_ref().unwrap().refresh(), Some(Interval::seconds(600)));
    assert_eq!(
        (&routes[3].scan.limit, &routes[4].scan.limit),
        (&Some(Action::Off), &Some(Action::Warn))
    );
    assert_eq!(routes[4].inject.as_ref().unwrap().place, Place::Query("api[key]".into()));
    assert_eq!(routes[4].inject.as_ref().unwrap().scheme, Scheme::Raw);
    assert_eq!(
        (routes[4].max_body, routes[4].budget),
        (Some(10_000_000), Budget { up: Some(50_000_000), ..Budget::default() })
    );
    assert_eq!(routes[4].rate.unwrap().to_string(), "60/m");
    let times = Timeouts { first_byte: Some(900), idle: Some(90), total: Some(7200) };
    assert_eq!((routes[4].timeout, routes[3].timeout), (times, Timeouts::default()));
    assert!(!routes[4].websocket && routes[3].websocket);
    assert!(routes[4].paths[0].matches("/v2/tiles/a/b/last"));
    assert!(routes[5].passthrough && routes[5].passthrough_conflicts().is_empty());
    assert_eq!(bottle.bundle_egress, EgressChain::MitmproxyPipelock);
    assert_eq!(routes[2].inject.as_ref().unwrap().token.as_str(), "GH_TOKEN");
    assert_eq!((routes[3].port, routes[3].tls), (80, false));
    // Of a file with a key and a certificate, only the certificate goes on.
    assert_eq!(routes[0].ca.as_deref(), Some(CERT));
    let git = &bottle.git[0].spec;
    assert_eq!(
        (git.name.to_string().as_str(), git.identity_file.as_deref()),
        ("x", Some(Path::new("/home/op/.ssh/id")))
    );
    let push = git.push.as_ref().unwrap();
    assert_eq!(
        (git.stale, push.max_pack, push.max_blob, push.max_objects),
        (Stale::Allow, 64 << 20, 1_000_000, 5000)
    );
    assert_eq!(
        (push.branches.len(), push.protected.len(), push.tags.len(), push.allow.len()),
        (2, 1, 1, 1)
    );
    assert!(
        push.authors[0].matches("x@example.com") && !push.committers[0].matches("x@example.com")
    );
    assert_eq!(
        (&bottle.git[1].spec.push, bottle.git[1].spec.ca_file.as_deref()),
        (&None, Some(Path::new("/project/ca.pem")))
    );
    let key = bottle.git[2].spec.deploy_key.as_ref().unwrap();
    let said = (key.forge, key.api.as_str(), key.repo.as_str(), key.token.0.as_str(), key.write);
    assert_eq!(
        said,
        (Forge::Gitea, "https://git.example.com/api/v1", "group/own", "OWN_FORGE_TOKEN", true)
    );
    let key = bottle.git[3].spec.deploy_key.as_ref().unwrap();
    let said = (key.forge, key.api.as_str(), key.repo.as_str(), key.token.0.as_str(), key.write);
    assert_eq!(
        said,
        (Forge::GitLab, "https://gitlab.com/api/v4", "group/sub/read", "READ_FORGE_TOKEN", false)
    );
    assert!(bottle.provider[&"claude".parse().unwrap()].ask);
    assert_eq!(manifest.bottles[&"plain".parse().unwrap()].egress.len(), 0);
}

#[test]
fn agent_files_are_agents() {
    let mut files = files();
    files.files.insert(
        "agents/helper.md".into(),
        b"+++\nbottle = \"demo\"\nprovider = \"command\"\n+++\n\nHelp.\n".to_vec(),
    );
    let manifest = parse(b"version = 1", Path::new("bottle.toml"), &files).unwrap();
    assert_eq!(manifest.agents[&"helper".parse().unwrap()].prompt.as_deref(), Some("Help."));
}

#[test]
fn agent_files_are_checked_like_tables() {
    for (name, text, message) in [
        (
            "helper",
            "+++\nbottle = \"demo\"\nprovder = \"command\"\n+++\n",
            "agents/helper.md:1:1: missing key `provider`",
        ),
        (
            "helper",
            "+++\nbottle = \"demo\"\nprovder = \"command\"\n+++\n",
            "agents/helper.md:3:1: unknown key `provder`\n  hint: did you mean `provider`?",
        ),
        (
            "helper",
            "+++\nbottle = \"dmo\"\nprovider = \"demo\"\n+++\n",
            "agents/helper.md:2:10: no bottle `dmo`\n  hint: did you mean `demo`?",
        ),
        (
            "helper",
            "+++\nbottle = \"demo\"\nprovider = \"demo\"\nprompt = \"x\"\n+++\n",
            "agents/helper.md:4:10: `prompt` has no place",
        ),
        ("helper", "+++\nbottle = [\n+++\n", "agents/helper.md:"),
        ("helper", "---\nbottle: demo\n---\n", "agents/helper.md:1:1: front matter is TOML"),
        ("helper", "just text", "agents/helper.md:1:1: the file does not begin with +++"),
        (
            "helper",
            "+++\nbottle = \"demo\"\n",
            "agents/helper.md:1:1: the front matter has no closing",
        ),
        ("helper", "", "agents/helper.md:1:1: the file is empty"),
        (
            "He lper",
            "+++\nbottle = \"demo\"\nprovider = \"demo\"\n+++\n",
            "agents/He lper.md:1:1: the file's name gives no agent name",
        ),
        (
            "twin",
            "+++\nbottle = \"demo\"\nprovider = \"demo\"\n+++\n",
            "agents/twin.md:1:1: two agents are called `twin`",
        ),
    ] {
        let mut files = files();
        files.files.insert(format!("agents/{name}.md"), text.as_bytes().to_vec());
        let twin = b"version = 1\n[agents.twin]\nbottle = \"demo\"\nprovider = \"demo\"\n";
        let errors = parse(twin, Path::new("bottle.toml"), &files).unwrap_err().to_string();
        assert!(errors.contains(message), "wanted {message}\ngot {errors}");
    }
}

/// Name, text below `version = 1`, line of the fault, part of what is said.
const BAD: &[(&str, &str, u32, &str)] = &[
    ("syntax", "x = ", 2, ""),
    ("unclosed", "x = \"", 2, ""),
    // toml_edit 0.23.10 panicked here ("all items have spans"); 0.25.18 does not. Found by fuzzing.
    ("unclosed_inline_table", "bottles = ={ A \"?q\" }\n[[bottles.d.egv", 2, "extra `=`"),
    ("duplicate_key", "[bottles.d]\nimage = \"a\"\nimage = \"b\"", 4, "duplicate key"),
    ("unknown_top_key", "agent = 1", 2, "unknown key `agent`\n  hint: did you mean `agents`?"),
    (
        "unknown_key_far",
        "[bottles.d]\nxyzzy = 1",
        3,
        "unknown key `xyzzy` in `bottles.d`\n  hint: known keys: image, env",
    ),
    (
        "timeout_zero",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ntimeout = { idle = \"0s\" }",
        4,
        "must be between 1s and 168h, not 0s",
    ),
    (
        "timeout_too_long",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ntimeout = { total = \"169h\" }",
        4,
        "must be between 1s and 168h, not 169h",
    ),
    (
        "timeout_unknown_key",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ntimeout = { first = \"1m\" }",
        4,
        "first_byte",
    ),
    (
        "unknown_route_key",
        "[[bottles.d.egress]]\nhots = \"a.b\"",
        3,
        "unknown key `hots` in `bottles.d.egress[0]`\n  hint: did you mean `host`?",
    ),
    ("unknown_inline_key", "[bottles.d]\nresources = { cpu = 1 }", 3, "did you mean `cpus`?"),
    ("not_a_table", "bottles = 3", 2, "`bottles` must be a table, not an integer"),
    ("bottle_name_slash", "[bottles.\"a/b\"]", 2, "not a name: `a/b`"),
    ("bottle_name_dots", "[bottles.\"..\"]", 2, "not a name: `..`"),
    (
        "agent_name_upper",
        "[agents.Dev]\nbottle = \"demo\"\nprovider = \"demo\"",
        2,
        "not a name: `Dev`",
    ),
    (
        "agent_name_long",
        "[agents.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]\nbottle = \"demo\"\nprovider = \"demo\"",
        2,
        "at most 32",
    ),
    (
        "agent_without_bottle",
        "[agents.a]\nprovider = \"demo\"",
        2,
        "missing key `bottle` in `agents.a`",
    ),
    ("agent_without_provider", "[agents.a]\nbottle = \"demo\"", 2, "missing key `provider`"),
    (
        "unknown_bottle",
        "[agents.a]\nbottle = \"dem\"\nprovider = \"demo\"",
        3,
        "no bottle `dem`\n  hint: did you mean `demo`?",
    ),
    (
        "unknown_bottle_far",
        "[agents.a]\nbottle = \"zzzzzz\"\nprovider = \"demo\"",
        3,
        "hint: define [bottles.zzzzzz]",
    ),
    (
        "unknown_provider",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"cluade\"",
        4,
        "did you mean `claude`?",
    ),
    (
        "both_prompts",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nprompt = \"x\"\nprompt_file = \"prompts/x.md\"",
        6,
        "both prompt and prompt_file",
    ),
    (
        "no_prompt_file",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nprompt_file = \"nope.md\"",
        5,
        "nope.md: no such file",
    ),
    (
        "prompt_escapes",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nprompt_file = \"../x.md\"",
        5,
        "stay in its directory",
    ),
    (
        "prompt_absolute",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nprompt_file = \"/etc/passwd\"",
        5,
        "must be relative to the manifest",
    ),
    (
        "no_skill",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nskills = [\n\"review\",\n\"nope\"]",
        7,
        "no skill `nope`",
    ),
    (
        "skill_name",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nskills = [\"../x\"]",
        5,
        "not a name: `../x`",
    ),
    (
        "skill_twice",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nskills = [\"review\", \"review\"]",
        5,
        "`review` is there twice",
    ),
    (
        "command_of_demo",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\ncommand = [\"x\"]",
        5,
        "belongs to provider \"command\"",
    ),
    (
        "command_string",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"command\"\ncommand = \"make all\"",
        5,
        "must be a list of words",
    ),
    (
        "command_empty",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"command\"\ncommand = []",
        5,
        "empty list",
    ),
    (
        "command_blank",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"command\"\ncommand = [\"\"]",
        5,
        "names no program",
    ),
    (
        "command_nul",
        "[agents.a]\nbottle = \"demo\"\nprovider = \"command\"\ncommand = [\"a\\u0000\"]",
        5,
        "cannot hold NUL",
    ),
    ("image_name", "[bottles.d]\nimage = \"a/b\"", 3, "not a name"),
    (
        "env_number",
        "[bottles.d]\nenv = { A = 3 }",
        3,
        "must be a string, not an integer\n  hint: put it in quotes: \"3\"",
    ),
    ("env_name", "[bottles.d.env]\n\"A-B\" = \"x\"", 3, "not a variable name: `A-B`"),
    ("env_name_digit", "[bottles.d.env]\n1A = \"x\"", 3, "no digit first"),
    (
        "env_reserved",
        "[bottles.d.env]\nHTTPS_PROXY = \"x\"",
        3,
        "the variable HTTPS_PROXY is reserved",
    ),
    ("env_reserved_lower", "[bottles.d.env]\nhttps_proxy = \"x\"", 3, "reserved"),
    ("env_reserved_ours", "[bottles.d.env]\nBOTTLE_X = \"x\"", 3, "reserved"),
    ("env_nul", "[bottles.d.env]\nA = \"a\\u0000b\"", 3, "control character (\\u{0})"),
    ("env_escape", "[bottles.d.env]\nA = \"a\\u001b[31m\"", 3, "control character (\\u{1b})"),
    ("env_asks_nothing", "[bottles.d.env]\nA = \"?\"", 3, "asks nothing"),
    ("env_open_brace", "[bottles.d.env]\nA = \"${X\"", 3, "has a ${ without }"),
    ("env_bad_reference", "[bottles.d.env]\nA = \"${X-Y}\"", 3, "has a ${…}: not a variable name"),
    (
        "supervise_word",
        "[bottles.d]\nsupervise = \"yes\"",
        3,
        "must be true or false, not a string",
    ),
    ("workspace_mode", "[bottles.d]\nworkspace = { mode = \"cpoy\" }", 3, "did you mean `copy`?"),
    ("workspace_no_mode", "[bottles.d]\nworkspace = { path = \".\" }", 3, "missing key `mode`"),
    (
        "workspace_escapes",
        "[bottles.d]\nworkspace = { mode = \"copy\", path = \"..\" }",
        3,
        "stay in its directory",
    ),
    (
        "workspace_none_path",
        "[bottles.d]\nworkspace = { mode = \"none\", path = \"x\" }",
        3,
        "has no use",
    ),
    ("cpus_zero", "[bottles.d.resources]\ncpus = 0", 3, "between 1 and 64, not 0"),
    ("cpus_many", "[bottles.d.resources]\ncpus = 65", 3, "between 1 and 64, not 65"),
    ("cpus_float", "[bottles.d.resources]\ncpus = 1.5", 3, "must be a whole number, not a float"),
    ("memory_unit", "[bottles.d.resources]\nmemory = \"2G\"", 3, "such as 2GiB"),
    ("memory_number", "[bottles.d.resources]\nmemory = 2048", 3, "must be a string"),
    (
        "memory_small",
        "[bottles.d.resources]\nmemory = \"128MiB\"",
        3,
        "between 256 MiB and 1 TiB, not 128 MiB",
    ),
    (
        "memory_overflow",
        "[bottles.d.resources]\nmemory = \"99999999999TiB\"",
        3,
        "out of all bounds",
    ),
    ("memory_fraction", "[bottles.d.resources]\nmemory = \"262145KiB\"", 3, "whole MiB"),
    ("disk_small", "[bottles.d.resources]\ndisk = \"1MiB\"", 3, "between 64 MiB"),
    ("host_missing", "[[bottles.d.egress]]\nport = 443", 2, "missing key `host`"),
    ("host_star", "[[bottles.d.egress]]\nhost = \"*\"", 3, "not a host: `*`\n  hint: a wildcard"),
    ("host_star_tld", "[[bottles.d.egress]]\nhost = \"*.com\"", 3, "not a host: `*.com`"),
    ("host_url", "[[bottles.d.egress]]\nhost = \"https://a.b/c\"", 3, "write host = \"a.b\""),
    ("host_port", "[[bottles.d.egress]]\nhost = \"a.b:443\"", 3, "not a host"),
    ("port_zero", "[[bottles.d.egress]]\nhost = \"a.b\"\nport = 0", 4, "between 1 and 65535"),
    (
        "method_space",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nmethods = [\"GET\", \"A B\"]",
        4,
        "not an HTTP method",
    ),
    (
        "method_connect",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nmethods = [\"CONNECT\"]",
        4,
        "not an HTTP method",
    ),
    ("methods_empty", "[[bottles.d.egress]]\nhost = \"a.b\"\nmethods = []", 4, "empty list"),
    (
        "methods_string",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nmethods = \"GET\"",
        4,
        "must be a list, not a string",
    ),
    ("path_relative", "[[bottles.d.egress]]\nhost = \"a.b\"\npaths = [\"x\"]", 4, "not a path"),
    ("path_dots", "[[bottles.d.egress]]\nhost = \"a.b\"\npaths = [\"/a/../b\"]", 4, "not a path"),
    (
        "connect_name",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nconnect = \"localhost:1\"",
        4,
        "must be an address and a port",
    ),
    ("ca_missing", "[[bottles.d.egress]]\nhost = \"a.b\"\nca_file = \"no.pem\"", 4, "no such file"),
    (
        "ca_not_pem",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nca_file = \"empty.pem\"",
        4,
        "holds no PEM certificate",
    ),
    (
        "ca_without_tls",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ntls = false\nca_file = \"ca.pem\"",
        5,
        "no use with tls = false",
    ),
    ("route_name", "[[bottles.d.egress]]\nhost = \"a.b\"\nname = \"a/b\"", 4, "not a route name"),
    (
        "route_twice",
        "[[bottles.d.egress]]\nhost = \"a.b\"\n[[bottles.d.egress]]\nhost = \"a.b\"\nport = 80",
        4,
        "two routes are called `a.b`",
    ),
    (
        "token_literal",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = \"ghp_x\" }",
        4,
        "must say where the token is, never hold it",
    ),
    (
        "token_missing",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { header = \"x-a\" }",
        4,
        "missing key `token`",
    ),
    (
        "token_two",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = { env = \"A\", file = \"~/b\" } }",
        4,
        "exactly one of env, file and command",
    ),
    (
        "token_env_name",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = { env = \"A B\" } }",
        4,
        "not a variable name",
    ),
    (
        "token_home_of",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = { file = \"~root/x\" } }",
        4,
        "only ~/ is understood",
    ),
    (
        "token_escapes",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = { file = \"../x\" } }",
        4,
        "stay in its directory",
    ),
    (
        "header_token",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { header = \"a b\", token = { env = \"A\" } }",
        4,
        "not a header name",
    ),
    (
        "header_newline",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { header = \"a\\r\\nb\", token = { env = \"A\" } }",
        4,
        "not a header name",
    ),
    (
        "header_host",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { header = \"Host\", token = { env = \"A\" } }",
        4,
        "cannot be injected",
    ),
    (
        "header_framing",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { header = \"Content-Length\", token = { env = \"A\" } }",
        4,
        "cannot be injected",
    ),
    (
        "header_proxy",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { header = \"proxy-authorization\", token = { env = \"A\" } }",
        4,
        "cannot be injected",
    ),
    (
        "scheme",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { scheme = \"baerer\", token = { env = \"A\" } }",
        4,
        "did you mean `bearer`?",
    ),
    (
        "same_request_two_tokens",
        "[[bottles.d.egress]]\nname = \"a\"\nhost = \"a.b\"\ninject = { token = { env = \"A\" } }\n[[bottles.d.egress]]\nname = \"b\"\nhost = \"a.b\"\ninject = { token = { env = \"B\" } }",
        6,
        "routes `a` and `b` disagree about the credential",
    ),
    (
        "apex_plain",
        "[[bottles.d.egress]]\nhost = \"a.b\"\napex = true",
        4,
        "is for wildcards: a.b has no names below it\n  hint: write host = \"*.a.b\"",
    ),
    (
        "apex_word",
        "[[bottles.d.egress]]\nhost = \"*.a.b\"\napex = \"yes\"",
        4,
        "must be true or false",
    ),
    (
        "passthrough_paths",
        "[[bottles.d.egress]]\nhost = \"a.b\"\npassthrough = true\npaths = [\"/x\"]",
        4,
        "excludes paths\n  hint: without",
    ),
    (
        "passthrough_methods",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nmethods = [\"GET\"]\npassthrough = true",
        5,
        "excludes methods",
    ),
    (
        "passthrough_http",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ntls = false\npassthrough = true",
        5,
        "excludes tls = false",
    ),
    (
        "passthrough_ca",
        "[[bottles.d.egress]]\nhost = \"a.b\"\npassthrough = true\nca_file = \"ca.pem\"",
        4,
        "excludes ca_file",
    ),
    (
        "passthrough_body",
        "[[bottles.d.egress]]\nhost = \"a.b\"\npassthrough = true\nmax_body = 1",
        4,
        "excludes max_body",
    ),
    (
        "passthrough_scan_off",
        "[[bottles.d.egress]]\nhost = \"a.b\"\npassthrough = true\nscan = \"off\"",
        4,
        "excludes scan",
    ),
    (
        "passthrough_scan_default",
        "[[bottles.d.egress]]\nhost = \"a.b\"\npassthrough = true\nscan = \"block\"",
        4,
        "excludes scan",
    ),
    (
        "passthrough_inject",
        "[[bottles.d.egress]]\nhost = \"a.b\"\npassthrough = true\npaths = [\"/x\"]\ninject = { token = { env = \"A\" } }",
        4,
        "excludes paths, inject",
    ),
    (
        "passthrough_and_not",
        "[[bottles.d.egress]]\nname = \"a\"\nhost = \"a.b\"\n[[bottles.d.egress]]\nhost = \"a.b\"\npassthrough = true",
        5,
        "routes `a` and `a.b` disagree about passthrough for a.b:443",
    ),
    (
        "scan_word",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nscan = \"wran\"",
        4,
        "did you mean `warn`?",
    ),
    (
        "scan_key",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nscan = { rule = {} }",
        4,
        "did you mean `rules`?",
    ),
    (
        "scan_action",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nscan = { rules = { \"aws-key\" = \"drop\" } }",
        4,
        "is off or warn or redact or block",
    ),
    (
        "scan_rule_id",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nscan = { rules = { \"a b\" = \"off\" } }",
        4,
        "not a rule's id: `a b`",
    ),
    (
        "body_unit",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nmax_body = \"10M\"",
        4,
        "not an amount of data: `10M`",
    ),
    (
        "body_negative",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nmax_body = -1",
        4,
        "must not be negative",
    ),
    (
        "body_float",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nmax_body = 1.5",
        4,
        "must be an amount such as \"10MB\", or bytes",
    ),
    (
        "body_overflow",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nmax_body = \"99999999999GiB\"",
        4,
        "out of all bounds",
    ),
    (
        "budget_nothing",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nbudget = 0",
        4,
        "lets nothing through",
    ),
    (
        "budget_empty",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nbudget = {}",
        4,
        "needs up, down or both",
    ),
    (
        "budget_key",
        "[[bottles.d.egress]]\nhost = \"a.b\"\nbudget = { donw = 1 }",
        4,
        "did you mean `down`?",
    ),
    ("rate", "[[bottles.d.egress]]\nhost = \"a.b\"\nrate = \"60/d\"", 4, "not a rate"),
    ("rate_zero", "[[bottles.d.egress]]\nhost = \"a.b\"\nrate = \"0/s\"", 4, "not a rate"),
    (
        "glob_in_segment",
        "[[bottles.d.egress]]\nhost = \"a.b\"\npaths = [\"/a**/b\"]",
        4,
        "** only as a whole segment",
    ),
    (
        "inject_both",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { header = \"x-a\", query = \"key\", token = { env = \"A\" } }",
        4,
        "has both header and query",
    ),
    (
        "query_name",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { query = \"a&b\", token = { env = \"A\" } }",
        4,
        "not a query parameter: `a&b`",
    ),
    (
        "refresh_env",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = { env = \"A\", refresh = \"10m\" } }",
        4,
        "has no use with env",
    ),
    (
        "refresh_short",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = { command = [\"x\"], refresh = \"9s\" } }",
        4,
        "must be between 10s and 168h, not 9s",
    ),
    (
        "refresh_unit",
        "[[bottles.d.egress]]\nhost = \"a.b\"\ninject = { token = { file = \"~/t\", refresh = \"10min\" } }",
        4,
        "not a duration: `10min`",
    ),
    ("chain", "[bottles.d]\nbundle = { egress = \"mitmproxi\" }", 3, "did you mean `mitmproxy`?"),
    ("chain_key", "[bottles.d]\nbundle = { egres = \"bottle\" }", 3, "did you mean `egress`?"),
    ("git_no_url", "[[bottles.d.git]]\nbranches = [\"x\"]", 2, "missing key `url`"),
    ("git_file", "[[bottles.d.git]]\nurl = \"file:///x\"", 3, "not a git URL"),
    ("git_ext", "[[bottles.d.git]]\nurl = \"ext::sh -c x\"", 3, "not a git URL"),
    ("git_option", "[[bottles.d.git]]\nurl = \"-oProxyCommand=x@h:y\"", 3, "not a git URL"),
    (
        "git_user_option",
        "[[bottles.d.git]]\nurl = \"ssh://-oProxyCommand=x@h/y\"",
        3,
        "not a git URL",
    ),
    (
        "git_password",
        "[[bottles.d.git]]\nurl = \"https://me:pw@h.example/x.git\"",
        3,
        "without a password",
    ),
    (
        "git_https_key",
        "[[bottles.d.git]]\nurl = \"https://h.example/x.git\"\nidentity_file = \"~/.ssh/id\"",
        4,
        "has no identity_file",
    ),
    (
        "git_ssh_token",
        "[[bottles.d.git]]\nurl = \"git@h.example:x.git\"\ntoken = { env = \"A\" }",
        4,
        "has no token",
    ),
    (
        "git_branch",
        "[[bottles.d.git]]\nurl = \"git@h.example:x.git\"\nbranches = [\"a..b\"]",
        4,
        "not a pattern of refs",
    ),
    (
        "git_no_branches",
        "[[bottles.d.git]]\nurl = \"git@h.example:x.git\"\nprotected = [\"main\"]",
        4,
        "nothing may be pushed",
    ),
    (
        "git_stale",
        "[[bottles.d.git]]\nurl = \"git@h.example:x.git\"\nstale = \"alow\"",
        4,
        "did you mean `allow`?",
    ),
    (
        "git_author",
        "[[bottles.d.git]]\nurl = \"git@h.example:x.git\"\nbranches = [\"a\"]\nauthors = [\"me <x>\"]",
        5,
        "not an e-mail pattern",
    ),
    (
        "git_allow",
        "[[bottles.d.git]]\nurl = \"git@h.example:x.git\"\nbranches = [\"a\"]\nallow = [\"all\"]",
        5,
        "not a fingerprint",
    ),
    (
        "git_limit",
        "[[bottles.d.git]]\nurl = \"git@h.example:x.git\"\nbranches = [\"a\"]\nmax_objects = 0",
        5,
        "must be between 1",
    ),
    (
        "git_ca",
        "[[bottles.d.git]]\nurl = \"git@h.example:x.git\"\nca_file = \"ca.pem\"",
        4,
        "has no ca_file",
    ),
    (
        "git_twice",
        "[[bottles.d.git]]\nurl = \"git@h.example:a/X.git\"\n[[bottles.d.git]]\nurl = \"git@h.example:b/x.git\"",
        4,
        "two upstreams are called `x`",
    ),
    (
        "git_name",
        "[[bottles.d.git]]\nurl = \"git@h.example:x.git\"\nname = \"../x\"",
        4,
        "not an upstream's name",
    ),
    (
        "deploy_key_https",
        "[[bottles.d.git]]\nurl = \"https://h.example/a/x.git\"\ndeploy_key = { forge = \"gitea\", token = { env = \"A\" } }",
        4,
        "has no deploy_key",
    ),
    (
        "deploy_key_and_file",
        "[[bottles.d.git]]\nurl = \"git@h.example:a/x\"\nidentity_file = \"~/k\"\ndeploy_key = { forge = \"gitea\", token = { env = \"A\" } }",
        5,
        "both identity_file and deploy_key",
    ),
    (
        "deploy_key_forge",
        "[[bottles.d.git]]\nurl = \"git@h.example:a/x\"\ndeploy_key = { forge = \"githup\", token = { env = \"A\" } }",
        4,
        "did you mean `github`?",
    ),
    (
        "deploy_key_token",
        "[[bottles.d.git]]\nurl = \"git@h.example:a/x\"\ndeploy_key = { forge = \"github\", token = \"ghp_x\" }",
        4,
        "never hold it",
    ),
    (
        "deploy_key_api",
        "[[bottles.d.git]]\nurl = \"git@h.example:a/x\"\ndeploy_key = { forge = \"github\", api = \"http://h\", token = { env = \"A\" } }",
        4,
        "not an https URL",
    ),
    (
        "deploy_key_repo",
        "[[bottles.d.git]]\nurl = \"git@h.example:x\"\ndeploy_key = { forge = \"github\", token = { env = \"A\" } }",
        4,
        "not a repository of a github forge: `x`",
    ),
    (
        "deploy_key_reads",
        "[[bottles.d.git]]\nurl = \"git@h.example:a/x\"\nbranches = [\"b\"]\ndeploy_key = { forge = \"github\", token = { env = \"A\" }, write = false }",
        5,
        "may not write",
    ),
    ("provider_unknown", "[bottles.d.provider.cladue]\nmodel = \"x\"", 2, "did you mean `claude`?"),
    (
        "provider_url",
        "[bottles.d.provider.claude]\nbase_url = \"http://x.example\"",
        3,
        "not an https URL",
    ),
    (
        "provider_both",
        "[bottles.d.provider.claude]\nforward_host_credentials = true\ntoken = { env = \"A\" }",
        2,
        "both token and forward_host_credentials",
    ),
];

#[test]
fn bad_manifests_name_the_line_and_the_remedy() {
    let mut failures = Vec::new();
    for (name, text, line, message) in BAD {
        let text = format!("version = 1\n{text}\n");
        match read(&text) {
            Ok(_) => failures.push(format!("{name}: accepted")),
            Err(errors) => {
                let hit = errors
                    .0
                    .iter()
                    .any(|e| e.line == *line && e.column > 0 && e.to_string().contains(message));
                if !hit || errors.0.len() > 2 {
                    failures.push(format!("{name}: wanted line {line}: {message}\n  got {errors}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), BAD.len(), failures.join("\n"));
}

#[test]
fn columns_count_characters_of_the_value_or_key() {
    let errors = read("version = 1\n[bottles.d]\nenv = { \"Ä\" = \"ok\", A = 3 }\n").unwrap_err();
    let places: Vec<_> = errors.0.iter().map(|e| (e.line, e.column, e.key.as_str())).collect();
    assert_eq!(places, [(3, 9, "bottles.d.env.`Ä`"), (3, 25, "bottles.d.env.A")]);
}

#[test]
fn all_faults_are_reported_in_order() {
    let errors = read("[agents.a]\nbottle = \"x\"\nprovider = \"y\"\n[bottles.d]\ncpus = 1\nresources.cpus = 99\n").unwrap_err();
    let lines: Vec<_> = errors.0.iter().map(|e| e.line).collect();
    assert_eq!(lines, [1, 3, 5, 6], "{errors}");
}

#[test]
fn version_is_required_and_known() {
    assert!(
        read("").unwrap_err().to_string().starts_with("bottle.toml:1:1: missing key `version`")
    );
    assert!(
        read("version = 2")
            .unwrap_err()
            .to_string()
            .starts_with("bottle.toml:1:11: `version` must be between 1 and 1, not 2")
    );
}

#[test]
fn huge_deep_and_binary_files_are_refused_quickly() {
    let started = std::time::Instant::now();
    let mut deep = "version = 1\nx = ".to_owned();
    deep.push_str(&"[".repeat(400_000));
    let many = format!("version = 1\n{}", "[[bottles.d.egress]]\nhost = \"a.b\"\n".repeat(25_000));
    let wrong = format!(
        "version = 1\n{}",
        (0..60_000).map(|i| format!("k{i} = 1\n")).collect::<Vec<_>>().concat()
    );
    for (bytes, message) in [
        (vec![b'#'; (1 << 20) + 1], "longer than 1 MiB"),
        (deep.into_bytes(), "max recursion depth"),
        (b"version = 1\nx = \"\xff\"".to_vec(), "bottle.toml:2:6: the file is not UTF-8"),
        (many.into_bytes(), "more than 256 elements"),
        (wrong.into_bytes(), "and 59900 more errors"),
    ] {
        let errors = parse(&bytes, Path::new("bottle.toml"), &files()).unwrap_err();
        assert!(
            errors.0.len() <= 100 && errors.to_string().contains(message),
            "wanted {message}, got {:.300}",
            errors.to_string()
        );
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn messages_cannot_drive_a_terminal() {
    let errors = read("version = 1\n\"\\u001b]0;x\\u0007\\u202e\" = 1\n").unwrap_err().to_string();
    assert!(
        errors.chars().all(|c| c == '\n' || !c.is_control()) && !errors.contains('\u{202e}'),
        "{errors:?}"
    );
    assert!(errors.contains("\\u{1b}]0;x\\u{7}\\u{202e}"), "{errors}");
    assert_eq!(neutral("plain Ünïcode 日本"), "plain Ünïcode 日本");
}

mod on_disk {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn project(manifest: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("p/sub/deep")).unwrap();
        fs::create_dir_all(dir.path().join("outside/evil")).unwrap();
        fs::write(dir.path().join("outside/secret"), "SECRET").unwrap();
        fs::write(dir.path().join("outside/evil/SKILL.md"), "x").unwrap();
        fs::write(dir.path().join("p/bottle.toml"), manifest).unwrap();
        dir
    }

    fn load_in(dir: &Path) -> Result<Manifest, ManifestErrors> {
        load(&Search {
            start: dir.to_path_buf(),
            home: Some("/nonexistent-home".into()),
            ..Search::default()
        })
    }

    #[test]
    fn a_parent_directorys_manifest_is_found_and_the_search_stops_at_home() {
        let dir = project("version = 1\n[bottles.dev]\n");
        let deep = dir.path().join("p/sub/deep");
        assert!(load_in(&deep).unwrap().bottles.contains_key(&"dev".parse().unwrap()));
        assert_eq!(find(&deep, Some(&dir.path().join("p/sub"))), None);
        assert_eq!(
            find(&deep, Some(&dir.path().join("p"))),
            Some(dir.path().join("p/bottle.toml"))
        );
        let real = dir.path().canonicalize().unwrap();
        symlink("p/sub", real.join("home")).unwrap();
        assert_eq!(find(&real.join("p/sub/deep"), Some(&real.join("home"))), None);
    }

    #[test]
    fn without_a_manifest_the_demo_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let search =
            Search { start: dir.path().into(), home: Some(dir.path().into()), ..Search::default() };
        let manifest = load(&search).unwrap();
        assert!(manifest.file.is_none() && manifest.agents.contains_key(&"demo".parse().unwrap()));
    }

    #[test]
    fn links_do_not_lead_out_of_the_project() {
        let dir = project(
            "version = 1\n[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nprompt_file = \"link.md\"\nskills = [\"evil\"]\n[bottles.d]\n\
             workspace = { mode = \"copy\", path = \"out\" }\n[[bottles.d.egress]]\nhost = \"a.b\"\nca_file = \"pipe\"\n",
        );
        let p = dir.path().join("p");
        symlink("../outside/secret", p.join("link.md")).unwrap();
        symlink("../outside", p.join("out")).unwrap();
        fs::create_dir(p.join("skills")).unwrap();
        symlink("../../outside/evil", p.join("skills/evil")).unwrap();
        nix::unistd::mkfifo(&p.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let errors = load_in(&p).unwrap_err();
        let lines: Vec<_> = errors.0.iter().map(|e| e.line).collect();
        assert_eq!(lines, [5, 6, 8, 11], "{errors}");
        let text = errors.to_string();
        assert_eq!(text.matches("by a symbolic link").count(), 3, "{text}");
        assert!(text.contains("not a regular file") && !text.contains("SECRET"), "{text}");
    }

    #[test]
    fn links_inside_the_project_work() {
        let dir = project(
            "version = 1\n[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nprompt_file = \"link.md\"\n",
        );
        fs::write(dir.path().join("p/real.md"), "hello").unwrap();
        symlink("real.md", dir.path().join("p/link.md")).unwrap();
        let manifest = load_in(&dir.path().join("p")).unwrap();
        assert_eq!(manifest.agents[&"a".parse().unwrap()].prompt.as_deref(), Some("hello"));
    }

    #[test]
    fn skills_come_from_the_project_then_from_the_operator() {
        let dir = project(
            "version = 1\n[agents.a]\nbottle = \"demo\"\nprovider = \"demo\"\nskills = [\"one\", \"two\"]\n",
        );
        for skill in ["p/skills/one", "mine/one", "mine/two"] {
            fs::create_dir_all(dir.path().join(skill)).unwrap();
            fs::write(dir.path().join(skill).join("SKILL.md"), "x").unwrap();
        }
        let search = Search {
            start: dir.path().join("p"),
            user_skills: Some(dir.path().join("mine")),
            ..Search::default()
        };
        let manifest = load(&search).unwrap();
        let root = dir.path().canonicalize().unwrap();
        let dirs: Vec<_> =
            manifest.agents[&"a".parse().unwrap()].skills.iter().map(|s| s.dir.clone()).collect();
        assert_eq!(dirs, [root.join("p/skills/one"), root.join("mine/two")]);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let dir = project("version = 1\n");
        let p = dir.path().join("p");
        let named = |file: &str| {
            let search = Search { start: p.clone(), file: Some(file.into()), ..Search::default() };
            load(&search).unwrap_err().to_string()
        };
        assert_eq!(
            named("nope.toml"),
            "nope.toml: cannot read it: nope.toml: no such file or directory"
        );
        assert_eq!(named("sub"), "sub: cannot read it: sub is not a regular file");
        fs::remove_file(p.join("bottle.toml")).unwrap();
        symlink("bottle.toml", p.join("bottle.toml")).unwrap();
        assert!(load_in(&p).unwrap_err().to_string().contains("cannot read it"));
    }

    #[test]
    fn a_found_manifest_of_another_user_is_not_used() {
        let dir = project("version = 1\n");
        let p = dir.path().join("p");
        if !nix::unistd::geteuid().is_root() {
            let test = "a_found_manifest_of_another_user_is_not_used";
            return skip(test, "only root can make another user's file");
        }
        if nix::unistd::chown(&p.join("bottle.toml"), Some(nix::unistd::Uid::from_raw(12345)), None)
            == Err(nix::errno::Errno::EINVAL)
        {
            let test = "a_found_manifest_of_another_user_is_not_used";
            return impossible(test, "a user namespace with one user has no other");
        }
        let errors = load_in(&p).unwrap_err().to_string();
        assert!(
            errors.contains("belongs to another user (uid 12345)")
                && errors.contains("--manifest FILE"),
            "{errors}"
        );
        assert!(
            load(&Search { start: p, file: Some("bottle.toml".into()), ..Search::default() })
                .is_ok()
        );
    }
}

const DOCS: &str = include_str!("../docs/manifest.md");

#[test]
fn the_documented_example_parses() {
    let example = DOCS.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut files = files();
    files.files.insert("prompts/dev.md".into(), b"x".to_vec());
    parse(example.as_bytes(), Path::new("bottle.toml"), &files).unwrap();
}

/// The parser names all keys of a table when one is far from any: each must be in the
/// documentation, and so in its tables.
#[test]
fn every_key_is_documented() {
    let tables = [
        "",
        "[agents.a]\n",
        "[bottles.d]\n",
        "[bottles.d.resources]\n",
        "[bottles.d.workspace]\n",
        "[[bottles.d.egress]]\n",
    ];
    let more = [
        "[bottles.d.provider]\n",
        "[bottles.d.provider.claude]\n",
        "[[bottles.d.git]]\n",
        "[[bottles.d.git]]\nurl = \"git@h.example:a/x\"\ndeploy_key.token.env = \"A\"\ndeploy_key.",
        "[bottles.d.bundle]\n",
        "[[bottles.d.egress]]\ninject.token.env = \"A\"\ninject.",
        "[[bottles.d.egress]]\ninject.token.command = [\"a\"]\ninject.token.",
        "[[bottles.d.egress]]\nscan.limit = \"warn\"\nscan.",
        "[[bottles.d.egress]]\nbudget.up = 1\nbudget.",
    ];
    let mut keys = 0;
    for table in tables.iter().chain(&more) {
        let errors =
            read(&format!("version = 1\n{table}zzzzzzzzzz = 1\n")).unwrap_err().to_string();
        let known =
            errors.split("known keys: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        for key in known.split(", ") {
            let shown = [format!("`{key}`"), format!("`{key}."), format!(".{key}`")];
            assert!(
                shown.iter().any(|s| DOCS.contains(s.as_str())),
                "`{key}` of {table:?} is not in docs/manifest.md"
            );
            keys += 1;
        }
    }
    assert!(keys > 40, "{keys}");
}
