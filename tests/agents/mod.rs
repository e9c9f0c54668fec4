//! What each agent is made to do, and what the stand-in saw of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::terminal::Terminal;
use crate::support::tmux::Tmux;
use crate::support::{Home, assert_code, stderr, stdout};

pub const CASES: &[(&str, fn())] = &[
    ("claude_does_a_task_and_goes_on_with_it_later", claude),
    ("codex_does_a_task_and_goes_on_with_it_later", codex),
    ("claude_reaches_its_prompt_without_a_dialog", claude_interactive),
    ("codex_reaches_its_prompt_without_a_dialog", codex_interactive),
    ("claude_asks_waits_and_gets_through", claude_asks),
    ("codex_asks_waits_and_gets_through", codex_asks),
    ("an_agent_that_asks_at_its_first_start_is_noticed", dialog),
    ("a_credential_that_expires_is_renewed_and_the_agent_does_not_notice", renewed),
    ("the_hosts_own_login_is_renewed_on_the_host", login),
    ("a_revoked_credential_is_told_with_what_mends_it", revoked),
    ("a_missing_or_expired_credential_is_found_before_anything_starts", missing),
    ("what_does_not_belong_into_a_workspace_stays_out", odd_workspace),
    ("the_tools_that_agents_expect_run", || {
        ["agent-claude", "agent-codex"].iter().for_each(|image| run(image, TOOLS))
    }),
    ("a_teams_image_has_what_its_lock_names", || run("team", &[TOOLS, TEAM].concat())),
];

/// What docs/agents.md promises to be in each image.
const TOOLS: &[&str] = &[
    "git --version",
    "rg --version",
    "jq --version",
    "curl --version",
    "less --version",
    "ps --version",
    "ssh -V",
    "python3 -c 'import ssl, json'",
    "make --version",
    "patch --version",
    "unzip -v",
    "tree --version",
    "node --eval 'fetch'",
    "npm --version",
];

/// What tests/agents/team.want adds, and nix/default.nix's `setup` of it: each of these needs
/// something that its package only brings along.
const TEAM: &[&str] = &[
    r#"printf '#include <stdio.h>\nint main() { puts("compiled"); }\n' > a.c && tcc a.c -o a && ./a"#,
    "pyproject-build --version",
    "python3 -c 'import build, pyproject_hooks, packaging'",
    "mkdirp made/below && test -d made/below",
    "grep tcc /etc/compiler",
];

/// Not real credentials.
const TOKEN: &str = "agents-1b9fd44e07c2a35d-token";
const NEXT: &str = "agents-8823e0d1f7a6bc94-next";

/// tests/agents/vendors.py. It ends with its standard input.
struct Vendors {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl Drop for Vendors {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Vendors {
    fn start(home: &Home, accepted: &str) -> Self {
        let dir = home.path().join("vendors");
        std::fs::create_dir(&dir).expect("a directory");
        let mut tokens = json!({});
        for host in ["api.anthropic.com", "api.openai.com"] {
            tokens[host] = json!([accepted, format!("Bearer {accepted}")]);
        }
        std::fs::write(dir.join("tokens.json"), tokens.to_string()).expect("the tokens");
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/agents/vendors.py");
        let mut child = Command::new("python3")
            .arg(program)
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut said)
            .expect("its port");
        let port = said.trim().strip_prefix("listening ").expect(&said).parse().expect("a port");
        std::fs::copy(dir.join("ca.pem"), home.project().join("ca.pem")).expect("its CA");
        Self { child, dir, port }
    }

    /// The requests so far.
    fn seen(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.dir.join("seen.jsonl")).unwrap_or_default();
        log.lines().map(|l| serde_json::from_str(l).expect("a line")).collect()
    }

    /// Those of a model.
    fn turns(&self) -> Vec<Value> {
        let model = |r: &Value| {
            r["path"]
                .as_str()
                .is_some_and(|p| p.starts_with("/v1/messages") || p.ends_with("/responses"))
        };
        self.seen().into_iter().filter(|r| r["method"] == "POST" && model(r)).collect()
    }
}

/// A project with an agent of this provider, which finds the stand-in where the vendor would be.
fn project(home: &Home, provider: &str, port: u16, token: &str) {
    let project = home.project();
    for dir in ["src", "skills/greet", "built"] {
        std::fs::create_dir_all(project.join(dir)).expect("its directories");
    }
    for (name, text) in [
        ("src/main.txt", "first line\n"),
        (".gitignore", "built\n"),
        ("built/junk", "never goes in\n"),
        (
            "skills/greet/SKILL.md",
            "---\nname: greet\ndescription: How to greet here.\n---\nSay SKILLWORD first.\n",
        ),
    ] {
        std::fs::write(project.join(name), text).expect("its files");
    }
    std::fs::write(
        project.join("bottle.toml"),
        format!(
            "version = 1\n[agents.{provider}]\nbottle = \"b\"\nprovider = \"{provider}\"\nprompt = \"Answer in PROMPTWORD.\"\nskills = [\"greet\"]\n\
             [bottles.b]\nresources = {{ cpus = 2, memory = \"1GiB\", disk = \"2GiB\" }}\nworkspace = {{ mode = \"copy\" }}\n\
             [bottles.b.provider.{provider}]\nconnect = \"127.0.0.1:{port}\"\nca_file = \"ca.pem\"\n{token}\n"
        ),
    )
    .expect("a manifest");
    for args in [
        &["init", "-q", "-b", "main"][..],
        &["add", "-A"],
        &["-c", "user.name=Op", "-c", "user.email=op@x.test", "commit", "-qm", "base"],
    ] {
        assert!(
            Command::new("git")
                .args(args)
                .current_dir(&project)
                .env("HOME", home.path())
                .status()
                .expect("git")
                .success()
        );
    }
}

fn launch(home: &Home, variable: &str, args: &[&str]) -> Output {
    let mut command = home.bottle(args);
    command.env(variable, TOKEN);
    crate::support::output_within(command, std::time::Duration::from_secs(300))
}

/// Each of `commands` succeeds in a bottle of `image`.
fn run(image: &str, commands: &[&str]) {
    let lines: String =
        commands.iter().map(|c| format!("( {c} ) >/tmp/said 2>&1 || {{ echo 'failed in {image}:'; cat /tmp/said; code=1; }}\n")).collect();
    let home = Home::with_manifest(&format!(
        "version = 1\n[agents.a]\nbottle = \"b\"\nprovider = \"command\"\ncommand = [\"bash\", \"-c\", '''\ncode=0\n{lines}exit $code\n''']\n\
         [bottles.b]\nimage = \"{image}\"\n"
    ));
    assert_code(&home.run(&["launch", "a", "--yes"]), 0);
}

/// Whether a file, sparse or not, holds one of the credentials.
fn holds(path: &Path) -> bool {
    use nix::unistd::{Whence, lseek};
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).expect("a file");
    let mut at = 0;
    while let Ok(begin) = lseek(&file, at, Whence::SeekData) {
        let end = lseek(&file, begin, Whence::SeekHole).expect("its end");
        let mut extent = vec![0; usize::try_from(end - begin).expect("its length")];
        let _ = file.read_exact_at(&mut extent, u64::try_from(begin).expect("its place"));
        if [TOKEN, NEXT].iter().any(|t| memchr::memmem::find(&extent, t.as_bytes()).is_some()) {
            return true;
        }
        at = end;
    }
    false
}

/// Nothing that a launch left holds a credential, its disk included.
fn nothing_holds_it(home: &Home, slug: &str) {
    let dir = home.state().join("bottles").join(slug);
    let files: Vec<_> = std::fs::read_dir(&dir)
        .expect("its state")
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    assert!(files.iter().any(|f| f.ends_with("saved.img")), "no disk was kept: {files:?}");
    for file in files {
        assert!(!holds(&file), "{} holds the credential", file.display());
    }
}

fn in_project(home: &Home, name: &str) -> String {
    std::fs::read_to_string(home.project().join(name)).unwrap_or_default()
}

fn claude() {
    let home = Home::new();
    let vendors = Vendors::start(&home, TOKEN);
    project(&home, "claude", vendors.port, "");
    let task = "A task.\ndo Skill {\"skill\":\"greet\"}\n\
        do Read {\"file_path\":\"/home/node/workspace/src/main.txt\"}\n\
        do Edit {\"file_path\":\"/home/node/workspace/src/main.txt\",\"old_string\":\"first\",\"new_string\":\"better\"}\n\
        do Bash {\"command\":\"env; ls -A; echo made > new.txt; git log --oneline; cat ~/.claude.json\",\"description\":\"look\"}";
    let output =
        launch(&home, "ANTHROPIC_API_KEY", &["launch", "claude", "--yes", "--", "-p", task]);
    assert_code(&output, 0);
    let said = stdout(&output);
    assert!(
        said.contains("ANTHROPIC_API_KEY=placeholder-")
            && said.contains("The workspace as it came into the bottle"),
        "{said}"
    );
    assert!(
        !said.contains(TOKEN) && !said.contains("junk") && !said.contains("\nbuilt\n"),
        "{said}"
    );
    let turns = vendors.turns();
    assert!(
        turns.len() >= 5 && turns.iter().all(|r| r["headers"]["x-api-key"] == TOKEN),
        "{} turns",
        turns.len()
    );
    let bodies: Vec<&str> = turns.iter().map(|r| r["body"].as_str().expect("a body")).collect();
    assert!(
        bodies[0].contains("PROMPTWORD") && bodies.last().expect("one").contains("SKILLWORD"),
        "prompt and skill"
    );
    assert!(
        vendors.seen().iter().all(|r| !r["headers"].to_string().contains("placeholder-the")),
        "a placeholder went out"
    );
    nothing_holds_it(&home, "claude");

    // What it did is not here yet, and is not lost.
    assert_eq!(
        (in_project(&home, "src/main.txt").as_str(), home.listed("claude").as_deref()),
        ("first line\n", Some("stopped"))
    );
    assert!(
        stderr(&output)
            .contains("2 files changed in the bottle; nothing is lost: bottle diff claude"),
        "{}",
        stderr(&output)
    );
    let diff = home.run(&["diff", "claude"]);
    assert!(
        stdout(&diff).contains("-first line\n+better line\n")
            && stdout(&diff).contains("A new.txt"),
        "{}",
        stdout(&diff)
    );
    assert_code(&home.run(&["rm", "claude"]), 2);
    assert_code(&launch(&home, "ANTHROPIC_API_KEY", &["launch", "claude", "--yes"]), 2);
    assert_code(&home.run(&["pull", "claude", "--branch", "agent/claude"]), 0);
    let show = Command::new("git")
        .args(["show", "agent/claude:src/main.txt"])
        .current_dir(home.project())
        .output()
        .expect("git");
    assert_eq!(
        (stdout(&show).as_str(), in_project(&home, "src/main.txt").as_str()),
        ("better line\n", "first line\n")
    );

    // Resumed, it has its conversation, its files, and a new launch's proofs.
    let again = launch(
        &home,
        "ANTHROPIC_API_KEY",
        &[
            "resume",
            "claude",
            "--yes",
            "--",
            "-p",
            "More.\ndo Bash {\"command\":\"cat new.txt src/main.txt; rm .gitignore\",\"description\":\"look\"}",
        ],
    );
    assert_code(&again, 0);
    assert!(
        stdout(&again).contains("The model has seen 7 turns. made\nbetter line"),
        "{}",
        stdout(&again)
    );
    assert!(stderr(&again).contains("shut in by"), "{}", stderr(&again));
    assert_code(&home.run(&["pull", "claude"]), 0);
    assert_eq!(
        (in_project(&home, "src/main.txt").as_str(), in_project(&home, "new.txt").as_str()),
        ("better line\n", "made\n")
    );
    assert!(
        !home.project().join(".gitignore").exists() && home.project().join("built/junk").exists()
    );
    assert_code(&home.run(&["rm", "claude"]), 0);
    assert_eq!(home.listed("claude"), None);
}

fn codex() {
    let home = Home::new();
    let vendors = Vendors::start(&home, TOKEN);
    project(&home, "codex", vendors.port, "");
    let task = "A task.\ndo exec_command {\"cmd\":\"cat ~/.codex/skills/greet/SKILL.md; sed -i s/first/better/ src/main.txt; echo made > new.txt; env\"}";
    let output = launch(&home, "OPENAI_API_KEY", &["launch", "codex", "--yes", "--", "exec", task]);
    assert_code(&output, 0);
    let said = stdout(&output);
    assert!(
        said.contains("SKILLWORD")
            && said.contains("OPENAI_API_KEY=placeholder-")
            && !said.contains(TOKEN),
        "{said}"
    );
    let turns = vendors.turns();
    assert!(
        turns.len() >= 2
            && turns.iter().all(|r| r["headers"]["authorization"] == format!("Bearer {TOKEN}")),
        "{} turns",
        turns.len()
    );
    let body = turns[0]["body"].as_str().expect("a body");
    assert!(body.contains("PROMPTWORD") && body.contains("How to greet here"), "prompt and skill");
    assert!(
        vendors.seen().iter().all(|r| !r["headers"].to_string().contains("placeholder-the")),
        "a placeholder went out"
    );
    nothing_holds_it(&home, "codex");
    let again = launch(
        &home,
        "OPENAI_API_KEY",
        &["resume", "codex", "--yes", "--", "exec", "resume", "--last", "More."],
    );
    assert_code(&again, 0);
    let body = vendors.turns().last().expect("one")["body"].as_str().expect("a body").to_owned();
    assert!(body.contains("A task.") && body.contains("More."), "the conversation goes on");
    assert_code(&home.run(&["pull", "codex"]), 0);
    assert_eq!(
        (in_project(&home, "src/main.txt").as_str(), in_project(&home, "new.txt").as_str()),
        ("better line\n", "made\n")
    );
}

fn interactive(provider: &str, variable: &str, prompt: &str) {
    let home = Home::new();
    let vendors = Vendors::start(&home, TOKEN);
    project(&home, provider, vendors.port, &format!("token = {{ env = \"{variable}\" }}"));
    let terminal = Tmux::start(&home, &["launch", provider, "--yes"], &[(variable, TOKEN)]);
    terminal.expect(prompt);
    std::thread::sleep(std::time::Duration::from_secs(5)); // a dialog would come over it
    assert!(terminal.screen().contains(prompt), "a dialog is on:\n{}", terminal.screen());
    terminal.type_text("hello there");
    std::thread::sleep(std::time::Duration::from_secs(2)); // typed slowly, as a paste is another thing
    terminal.press("Enter");
    let asked = || {
        vendors
            .turns()
            .iter()
            .any(|r| r["body"].as_str().is_some_and(|b| b.contains("hello there")))
            .then_some(())
    };
    let never = || format!("the model is never asked; on the screen is:\n{}", terminal.screen());
    crate::support::until(std::time::Duration::from_millis(100), never, asked);
    // What the agent knows is in the machine's memory by now; what it must not know is not.
    assert_eq!(in_memory(&home, &["placeholder-the", TOKEN]), ["placeholder-the"]);
    assert_code(&home.run(&["stop", provider]), 0);
    terminal.expect("is stopped");
    assert!(
        !terminal.history().contains("began with a question"),
        "a dialog was on:\n{}",
        terminal.history()
    );
    assert_eq!(home.listed(provider).as_deref(), Some("stopped"));
}

fn claude_interactive() {
    interactive("claude", "ANTHROPIC_API_KEY", "bypass permissions on");
}

/// Without the settings that the bottle has made for it.
fn dialog() {
    let home = Home::new();
    let vendors = Vendors::start(&home, TOKEN);
    project(&home, "claude", vendors.port, "");
    let command = [
        "launch",
        "claude",
        "--yes",
        "--",
        "bash",
        "-c",
        "sed -i s,hasTrust,x, ~/.claude.json; exec claude",
    ];
    let mut terminal = Terminal::start_with(&home, &command, &[("ANTHROPIC_API_KEY", TOKEN)]);
    terminal.wait_for("safety");
    terminal.wait_for("cancel");
    assert_code(&home.run(&["stop", "claude"]), 0);
    terminal.wait_for("began with a question (Enter to confirm");
}

fn codex_interactive() {
    interactive("codex", "OPENAI_API_KEY", "OpenAI Codex");
}

/// A web server on the host's loopback that answers `through`. Its port.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nthrough",
            );
        }
    });
    port
}

/// Which of `texts` the memory of the machine that runs in `home` holds.
fn in_memory<'t>(home: &Home, texts: &[&'t str]) -> Vec<&'t str> {
    use std::os::unix::fs::FileExt;
    let all = crate::support::processes_naming(home.path());
    let (pid, _) = all
        .iter()
        .find(|(_, argv)| argv.split(' ').next().is_some_and(|a| a.contains("qemu-system")))
        .expect("a machine");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let mut found = std::collections::BTreeSet::new();
    for line in
        maps.lines().filter(|l| l.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw")))
    {
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (mut at, end) = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'))
            .map(|(a, b)| (hex(a), hex(b)))
            .expect("a range");
        let mut piece = vec![0; 16 << 20];
        while at < end {
            let most = piece.len().min(usize::try_from(end - at).expect("a length"));
            let Ok(n @ 1..) = memory.read_at(&mut piece[..most], at) else { break };
            found.extend(
                texts
                    .iter()
                    .copied()
                    .filter(|t| memchr::memmem::find(&piece[..n], t.as_bytes()).is_some()),
            );
            // A text may lie across the border.
            at += u64::try_from(if at + n as u64 == end { n } else { n.saturating_sub(64).max(1) })
                .expect("a length");
        }
    }
    texts.iter().copied().filter(|t| found.contains(t)).collect()
}

/// The agent meets a closed door, asks over MCP, waits, and goes on once the operator has agreed.
fn asks(provider: &str, task: impl Fn(&str, &str) -> Vec<String>, approve: impl Fn(&Home)) {
    let home = Home::new();
    let vendors = Vendors::start(&home, TOKEN);
    project(&home, provider, vendors.port, "token = { file = \"~/token\" }");
    std::fs::write(home.path().join("token"), TOKEN).expect("the token");
    let manifest = home.project().join("bottle.toml");
    let text = std::fs::read_to_string(&manifest)
        .expect("it")
        .replace("[bottles.b]\n", "[bottles.b]\nsupervise = true\n");
    std::fs::write(&manifest, text).expect("with supervise");
    let port = upstream();
    let get = format!("curl -sS --noproxy '' -x http://127.0.0.1:9099 http://127.0.0.1:{port}/x");
    let wanted = json!({ "host": "127.0.0.1", "port": port, "tls": false, "methods": ["GET"], "paths": ["/x"], "reason": "the task", "wait_seconds": 45 });
    let mut args = vec![provider.to_owned(), "--".to_owned()];
    args.extend(task(&get, &wanted.to_string()));
    let mut bottle = home.start(provider, &args.iter().map(String::as_str).collect::<Vec<_>>());
    bottle.close_input();
    crate::support::eventually("the agent asks", || {
        assert!(
            !bottle.ended(),
            "it ended without:\n{}\n{:?}",
            bottle.said(),
            vendors.turns().last().map(|r| r["body"].clone())
        );
        stdout(&home.run(&["proposals"])).contains("127.0.0.1")
    });
    approve(&home);
    assert!(bottle.wait().success(), "{}", bottle.said());
    let turns = vendors.turns();
    let last = turns.last().expect("one")["body"].as_str().expect("a body");
    assert!(
        bottle.said().contains("turns. ") && bottle.said().contains("through"),
        "{}\n{last}",
        bottle.said()
    );
    assert!(
        last.contains("[no-route]") && last.contains("approved"),
        "denied first, then told: {last}"
    );
}

fn claude_asks() {
    let task = |get: &str, wanted: &str| {
        let bash = json!({ "command": get, "description": "look" });
        let task = format!(
            "Ask.\ndo Bash {bash}\ndo mcp__supervise__explain_denial {{\"last\":1}}\ndo mcp__supervise__propose_route {wanted}\ndo Bash {bash}"
        );
        vec!["-p".into(), task]
    };
    // The host is private, so a yes is not enough: its name is typed.
    asks("claude", task, |home| {
        let dashboard = Tmux::start(home, &["dashboard"], &[]);
        dashboard.expect("127.0.0.1");
        dashboard.type_text("a127.0.0.1");
        dashboard.press("Enter");
        dashboard.expect("in force");
        dashboard.type_text("q");
        assert_eq!(dashboard.code(), 0);
    });
}

fn codex_asks() {
    let task = |get: &str, wanted: &str| {
        let exec = json!({ "cmd": get });
        // Tools of an MCP server are functions of the JavaScript that its model writes.
        let script = |tool: &str, args: &str| json!({ "input": format!("// @exec: {{\"yield_time_ms\": 60000}}\ntext(await tools.mcp__supervise__{tool}({args}))") });
        let (explain, propose) =
            (script("explain_denial", "{\"last\":1}"), script("propose_route", wanted));
        vec![
            "exec".into(),
            format!(
                "Ask.\ndo exec_command {exec}\ndo exec {explain}\ndo exec {propose}\ndo exec_command {exec}"
            ),
        ]
    };
    asks("codex", task, |home| {
        assert_code(&home.run(&["proposals", "approve", "codex/1", "--type", "127.0.0.1"]), 0)
    });
}

fn renewed() {
    let home = Home::new();
    let vendors = Vendors::start(&home, NEXT);
    project(&home, "claude", vendors.port, "token = { file = \"~/token\" }");
    let token = home.path().join("token");
    std::fs::write(&token, TOKEN).expect("the old token");
    let mut bottle = home.start("claude", &["claude", "--", "-p", "Hello."]);
    bottle.wait_until_up();
    // What was read at launch is turned down; by then the host has a new one.
    std::fs::write(&token, NEXT).expect("the new token");
    let status = bottle.wait();
    assert!(status.success(), "{}", bottle.said());
    assert!(bottle.said().contains("The model has seen"), "{}", bottle.said());
    let used: Vec<String> = vendors
        .seen()
        .iter()
        .map(|r| r["headers"]["x-api-key"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(
        used.contains(&TOKEN.to_owned()) && used.last().map(String::as_str) == Some(NEXT),
        "{used:?}"
    );
}

fn login() {
    let home = Home::new();
    let vendors = Vendors::start(&home, "nothing");
    let url = format!(
        "forward_host_credentials = true\nlogin_url = \"https://localhost:{}/v1/oauth/token\"",
        vendors.port
    );
    project(&home, "claude", vendors.port, &url);
    let tokens = vendors.dir.join("tokens.json");
    let mut state: Value =
        serde_json::from_slice(&std::fs::read(&tokens).expect("the tokens")).expect("JSON");
    state["refresh"] = json!({ "refresh-one": ["api.anthropic.com", NEXT, "refresh-two"] });
    std::fs::write(&tokens, state.to_string()).expect("the tokens");
    std::fs::create_dir(home.path().join(".claude")).expect("a login's directory");
    let file = home.path().join(".claude/.credentials.json");
    let keep = |access: &str, refresh: &str, ends: u64| {
        let login = json!({ "claudeAiOauth": { "accessToken": access, "refreshToken": refresh, "expiresAt": ends, "scopes": ["a"] } });
        std::fs::write(&file, login.to_string()).expect("a login");
    };
    let kept = || -> Value {
        serde_json::from_slice(&std::fs::read(&file).expect("the login")).expect("JSON")
    };

    // The vendor has turned its token down long before its end: renewed while the agent waits for
    // its first answer.
    keep(TOKEN, "refresh-one", u64::MAX / 2);
    let output = home.run(&[
        "launch",
        "claude",
        "--yes",
        "--",
        "-p",
        "Hello.\ndo Bash {\"command\":\"env; cat ~/.claude/*\",\"description\":\"look\"}",
    ]);
    assert_code(&output, 0);
    let said = stdout(&output);
    assert!(
        said.contains("The model has seen")
            && ![TOKEN, NEXT, "refresh-"].iter().any(|secret| said.contains(secret)),
        "{said}"
    );
    let used: Vec<Value> =
        vendors.seen().iter().map(|r| r["headers"]["authorization"].clone()).collect();
    assert!(
        used.contains(&json!(format!("Bearer {TOKEN}")))
            && used.last() == Some(&json!(format!("Bearer {NEXT}"))),
        "{used:?}"
    );
    let now = kept();
    assert_eq!(
        (&now["claudeAiOauth"]["accessToken"], &now["claudeAiOauth"]["refreshToken"]),
        (&json!(NEXT), &json!("refresh-two"))
    );
    assert_eq!(
        (
            &now["claudeAiOauth"]["scopes"],
            file.metadata().expect("it").permissions().mode() & 0o777
        ),
        (&json!(["a"]), 0o600)
    );
    nothing_holds_it(&home, "claude");

    // One that has ended is renewed before anything starts; one that cannot be is said.
    keep(TOKEN, "refresh-two", 1000);
    assert_code(&home.run(&["resume", "claude", "--yes", "--", "-p", "Again."]), 0);
    assert_eq!(kept()["claudeAiOauth"]["refreshToken"], "refresh-twox");
    assert_code(&home.run(&["rm", "claude"]), 0);
    keep(TOKEN, "refresh-none", 1000);
    let refused = home.run(&["launch", "claude", "--yes", "--", "-p", "Again."]);
    assert_code(&refused, 3);
    let said = stderr(&refused);
    assert!(
        said.contains("cannot be renewed")
            && said.contains("invalid_grant")
            && said.contains("run: claude"),
        "{said}"
    );
    assert!(
        !said.contains("refresh-none") && home.listed("claude").as_deref() != Some("running"),
        "{said}"
    );
    assert_eq!(
        kept()["claudeAiOauth"]["refreshToken"],
        "refresh-none",
        "what is kept is as it was"
    );
}

fn revoked() {
    let home = Home::new();
    let vendors = Vendors::start(&home, NEXT);
    project(&home, "claude", vendors.port, "token = { file = \"~/token\" }");
    std::fs::write(home.path().join("token"), TOKEN).expect("the token");
    let mut bottle = home.start("claude", &["claude", "--", "-p", "Hello."]);
    bottle.close_input();
    // The agent itself tries on for a while.
    let told = format!(
        "does not take token CLAUDE_TOKEN (401 Unauthorized); put one that is good into {}",
        home.path().join("token").display()
    );
    crate::support::eventually("what mends it", || bottle.said().contains(&told));
    assert!(!bottle.said().contains(TOKEN), "{}", bottle.said());
}

fn missing() {
    let home = Home::new();
    let none = home.run(&["launch", "claude", "--yes"]);
    assert_code(&none, 3);
    assert!(
        stderr(&none).contains("ANTHROPIC_API_KEY is not set") && stderr(&none).contains("--login"),
        "{}",
        stderr(&none)
    );
    assert_code(&home.run(&["launch", "claude", "--yes", "--login"]), 3);
    std::fs::create_dir(home.path().join(".claude")).expect("a login's directory");
    let login = home.path().join(".claude/.credentials.json");
    std::fs::write(
        &login,
        format!("{{\"claudeAiOauth\":{{\"accessToken\":\"{TOKEN}\",\"expiresAt\":1000}}}}"),
    )
    .expect("a login");
    let expired = home.run(&["launch", "claude", "--yes", "--login"]);
    assert_code(&expired, 3);
    assert!(
        stderr(&expired).contains("has expired; run: claude") && !stderr(&expired).contains(TOKEN),
        "{}",
        stderr(&expired)
    );
    assert_eq!(home.listed("claude"), None, "nothing was started");
}

fn odd_workspace() {
    let home = Home::new();
    let project = home.project();
    std::fs::write(project.join("large"), "").expect("a file");
    std::fs::File::options()
        .write(true)
        .open(project.join("large"))
        .expect("it")
        .set_len(20 << 30)
        .expect("its length");
    let mut command = home.bottle(&["launch", "claude", "--yes"]);
    command.env("ANTHROPIC_API_KEY", TOKEN);
    let output = crate::support::output_within(command, crate::support::PATIENCE);
    assert_code(&output, 3);
    assert!(
        stderr(&output).contains("the largest: large (21.4 GB)")
            && stderr(&output).contains(".gitignore"),
        "{}",
        stderr(&output)
    );
    let mut at_home = home.bottle(&["launch", "claude", "--yes"]);
    at_home.env("ANTHROPIC_API_KEY", TOKEN).current_dir(home.path());
    let output = crate::support::output_within(at_home, crate::support::PATIENCE);
    assert_code(&output, 3);
    assert!(stderr(&output).contains("which is no project"), "{}", stderr(&output));
}
