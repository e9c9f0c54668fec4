//! An agent asks, an operator decides: real bottles, the real daemon, the real commands.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::attacks::Case;
use crate::support::{Home, Running, assert_code, eventually, stderr, stdout};

pub const CASES: &[Case] = &[
    ("lifecycle::supervise::asked_approved_and_through", through),
    ("lifecycle::supervise::scopes_end_and_edits_only_narrow", scopes),
    ("lifecycle::supervise::one_decision_whoever_dies", decided_once),
    ("lifecycle::supervise::a_branch_is_asked_for_and_pushed", branches),
    ("lifecycle::supervise::decided_on_the_dashboard_and_on_the_page", screens),
    ("lifecycle::supervise::decided_in_a_browser", browser),
    ("lifecycle::supervise::what_is_decided_and_not_done_is_asked_again", dies_between),
    ("lifecycle::supervise::the_sdks_client_asks_from_inside", sdk),
];

const MANIFEST: &str = "# mine\nversion = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"sleep\", \"1000\"]\n\
                        [bottles.dev]   # the bottle\nimage = \"demo\"\nsupervise = { notify = [\"touch\", \"notified\"], expires = \"1h\" }\n";

/// A web server on the host's loopback: answers `through` to everything. Its port.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
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

/// Calls a tool from inside the bottle; gives its structured result, or the text of its error.
fn call(bottle: &Running<'_>, tool: &str, arguments: &Value) -> Result<Value, String> {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": arguments } });
    let out = bottle.home.run(&[
        "exec",
        &bottle.slug,
        "--",
        "curl",
        "-sS",
        "-m",
        "60",
        "-H",
        "content-type: application/json",
        "-H",
        "accept: application/json, text/event-stream",
        "http://127.0.0.1:9100/",
        "-d",
        &request.to_string(),
    ]);
    let answer: Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|_| panic!("{}{}", stdout(&out), stderr(&out)));
    let result = answer.get("result").unwrap_or_else(|| panic!("{answer}"));
    match result["isError"].as_bool() {
        Some(true) => Err(result["content"][0]["text"].as_str().unwrap().to_owned()),
        _ => Ok(result["structuredContent"].clone()),
    }
}

fn propose(
    bottle: &Running<'_>,
    host: &str,
    port: u16,
    tls: bool,
    paths: &[&str],
) -> Result<Value, String> {
    call(
        bottle,
        "propose_route",
        &json!({ "host": host, "port": port, "tls": tls, "methods": ["GET", "POST"], "paths": paths, "reason": "to do what I was told" }),
    )
}

/// `GET url` through egress; what came back.
fn get(bottle: &Running<'_>, url: &str) -> String {
    stdout(&bottle.home.run(&[
        "exec",
        &bottle.slug,
        "--",
        "curl",
        "-sS",
        "-m",
        "20",
        "--noproxy",
        "",
        "-x",
        "http://127.0.0.1:9099",
        url,
    ]))
}

fn up(home: &Home) -> Running<'_> {
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    bottle
}

fn document(home: &Home, id: u32) -> Value {
    let out = home.run(&["proposals", "show", &format!("worker/{id}"), "--json"]);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", stderr(&out)))
}

fn refused(out: &Output, why: &str) {
    assert_code(out, 3);
    assert!(stderr(out).contains(why), "{}", stderr(out));
}

fn through() {
    let home = Home::with_manifest(MANIFEST);
    let bottle = up(&home);
    let port = upstream();
    let url = format!("http://127.0.0.1:{port}/v1/x");
    assert!(get(&bottle, &url).contains("[no-route]"));
    let denials = call(&bottle, "explain_denial", &json!({ "last": 1 })).unwrap();
    let mut suggested = denials["denials"][0]["propose_route"].clone();
    assert_eq!(
        suggested,
        json!({ "host": "127.0.0.1", "port": port, "tls": false, "methods": ["GET"], "paths": ["/v1/x"] })
    );

    suggested["reason"] = json!("to \u{1b}[2J\u{202e} look");
    let filed = call(&bottle, "propose_route", &suggested).unwrap();
    assert_eq!((filed["id"].as_u64(), filed["state"].as_str()), (Some(1), Some("pending")));
    eventually("the operator is notified", || home.project().join("notified").exists());
    let shown = stdout(&home.run(&["proposals", "show", "worker/1"]));
    assert!(
        shown.contains("+ 127.0.0.1") && shown.contains("PRIVATE") && shown.contains("PLAIN HTTP"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown:?}");
    assert!(stdout(&home.run(&["proposals"])).contains("worker/1"));

    // It is wide: a yes alone is not enough.
    refused(&home.run(&["proposals", "approve", "worker/1"]), "typed");
    refused(&home.run(&["proposals", "approve", "worker/1", "--type", "127.0.0.2"]), "typed");
    assert!(get(&bottle, &url).contains("[no-route]"), "nothing has changed");
    let began = Instant::now();
    assert_code(&home.run(&["proposals", "approve", "worker/1", "--type", "127.0.0.1"]), 0);
    eprintln!("approve, as a command: {:?}", began.elapsed());
    assert_eq!(get(&bottle, &url), "through");
    assert!(
        get(&bottle, &format!("http://127.0.0.1:{port}/v2")).contains("[not-allowed]"),
        "and no more than was asked"
    );
    let status = call(&bottle, "proposal_status", &json!({ "id": 1 })).unwrap();
    assert_eq!(status["state"], "approved");
    let allowed = call(&bottle, "policy", &json!({})).unwrap();
    assert_eq!(allowed["routes"][0]["paths"], json!(["/v1/x"]));
    assert!(propose(&bottle, "127.0.0.1", port, false, &["/v1/x"]).is_ok(), "POST is new");
    assert_code(&home.run(&["proposals", "deny", "worker/2", "--reason", "reads are enough"]), 0);
    let again = propose(&bottle, "127.0.0.1", port, false, &["/v1/x", "/v3"]).unwrap_err();
    assert!(again.contains("reads are enough"), "{again}");
    assert_eq!(
        call(&bottle, "proposal_status", &json!({ "id": 2 })).unwrap()["text"],
        "denied: reads are enough"
    );
    assert!(call(&bottle, "proposal_status", &json!({ "id": 9 })).is_err());

    // What was granted survives a reload of the manifest, and the log is whole.
    let toml = home.project().join("bottle.toml");
    std::fs::write(&toml, format!("{MANIFEST}[[bottles.dev.egress]]\nhost = \"a.test\"\n"))
        .unwrap();
    assert_code(&home.run(&["reload", "worker"]), 0);
    assert_eq!(get(&bottle, &url), "through");
    let log = stdout(&home.run(&["logs", "worker"]));
    assert!(
        log.contains("proposal 1 approved by") && log.contains("proposal 2 denied by"),
        "{log}"
    );
    assert_code(&home.run(&["audit", "verify", "worker"]), 0);

    // A question, answered while its call waits.
    std::thread::scope(|scope| {
        let ask = scope.spawn(|| {
            call(
                &bottle,
                "ask_operator",
                &json!({ "question": "Which one?", "choices": ["a", "b"], "wait_seconds": 60 }),
            )
        });
        eventually("the question is there", || {
            stdout(&home.run(&["proposals"])).contains("Which one?")
        });
        assert_code(&home.run(&["proposals", "approve", "worker/3", "--answer", "2"]), 0);
        assert_eq!(ask.join().unwrap().unwrap()["text"], "the operator says: b");
    });
    bottle.stop();
}

fn scopes() {
    let home = Home::with_manifest(MANIFEST);
    let bottle = up(&home);
    let port = upstream();
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let wide = ["--type", "127.0.0.1"];
    let approve = |id: u32, args: &[&str]| {
        let name = format!("worker/{id}");
        let mut all = vec!["proposals", "approve", name.as_str()];
        all.extend(args);
        all.extend(wide);
        home.run(&all)
    };

    assert_eq!(propose(&bottle, "127.0.0.1", port, false, &["/once"]).unwrap()["id"], 1);
    assert_eq!(propose(&bottle, "a.test", 443, true, &["/v1/*"]).unwrap()["id"], 2);
    assert_code(&approve(1, &["--once"]), 0);
    assert_eq!(get(&bottle, &url("/once")), "through");
    assert!(get(&bottle, &url("/once")).contains("[budget]"), "once is once");

    // Made against the policy before: it is shown again, not applied.
    refused(&approve(2, &[]), "policy has changed");
    let shown = stdout(&home.run(&["proposals", "show", "worker/2"]));
    let against = shown
        .split("--against ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .expect(&shown)
        .to_owned();
    for wider in
        [&["--path", "/v2"][..], &["--host", "b.test"], &["--method", "DELETE"], &["--path", "/*"]]
    {
        let mut args = wider.to_vec();
        args.extend(["--against", &against]);
        refused(&approve(2, &args), "only narrow");
    }
    let args = ["--against", &against, "--path", "/v1/x", "--method", "GET", "--save"];
    assert_code(&approve(2, &args), 0);
    assert_eq!(
        (
            document(&home, 2)["state"].as_str(),
            document(&home, 2)["decision"]["route"]["paths"][0].as_str()
        ),
        (Some("edited"), Some("/v1/x"))
    );
    let toml = std::fs::read_to_string(home.project().join("bottle.toml")).unwrap();
    assert_eq!(
        toml,
        format!(
            "{MANIFEST}\n[[bottles.dev.egress]]\nhost = \"a.test\"\nmethods = [\"GET\"]\npaths = [\"/v1/x\"]\n"
        )
    );

    assert_eq!(propose(&bottle, "127.0.0.1", port, false, &["/while"]).unwrap()["id"], 3);
    assert_code(&approve(3, &["--for", "3s"]), 0);
    assert_eq!(get(&bottle, &url("/while")), "through");
    eventually("its time is over", || document(&home, 3)["decision"]["effect"] == "over");
    assert!(!get(&bottle, &url("/while")).contains("through"));
    let log = stdout(&home.run(&["logs", "worker"]));
    assert!(log.contains("the time of proposal 3 is over"), "{log}");

    // With an editor. It is a program of the operator's; this one narrows.
    assert_eq!(propose(&bottle, "c.test", 443, true, &["/a/*"]).unwrap()["id"], 4);
    let edit = |script: &str| {
        let mut command = home.bottle(&["proposals", "approve", "worker/4", "--edit"]);
        command.env("EDITOR", format!("sed -i {script}"));
        crate::support::output_within(command, Duration::from_secs(60))
    };
    refused(&edit("s,/a/,/b/,"), "only narrow");
    refused(&edit("s,GET,G:T,"), "no route");
    assert_code(&edit("s,/a/.,/a/1,"), 0);
    assert_eq!(document(&home, 4)["decision"]["route"]["paths"], json!(["/a/1"]));

    // What cannot be asked at all.
    for (host, paths) in [
        ("*", &["/"][..]),
        ("*.test", &["/"]),
        ("a.test:443", &["/"]),
        ("https://a.test", &["/"]),
        ("a.test", &[]),
        ("a.test", &["/../x"]),
    ] {
        assert!(propose(&bottle, host, 443, true, paths).is_err(), "{host} {paths:?}");
    }
    // A flood stays small: eight wait, and the rest is told so.
    let filed = (0..14)
        .filter(|n| propose(&bottle, &format!("h{n}.test"), 443, true, &["/"]).is_ok())
        .count();
    assert!(filed <= 8, "{filed}");
    bottle.stop();
    let left = stdout(&home.run(&["proposals", "worker"]));
    assert!(!left.contains("pending") && left.contains("expired"), "{left}");
    let late = home.run(&["proposals", "approve", "worker/5"]);
    assert_code(&late, 2);
    assert!(stderr(&late).contains("not running"), "{}", stderr(&late));
}

fn branches() {
    let upstream = super::git::Upstream::start();
    let home = Home::with_manifest(
        &upstream.manifest().replace("image = \"demo\"\n", "image = \"demo\"\nsupervise = true\n"),
    );
    let bottle = up(&home);
    let sh = |script: &str| {
        home.run(&["exec", "worker", "--", "sh", "-c", &format!("set -e; cd ~; {script}")])
    };
    assert_code(
        &sh(&format!(
            "git clone -q {} w; git config --global user.name a; git config --global user.email a@b.test",
            upstream.url()
        )),
        0,
    );
    let push = |branch: &str, file: &str| {
        sh(&format!(
            "cd w; git checkout -qB {branch} origin/main; date > {file}; git add .; git commit -qm f; git push origin {branch}"
        ))
    };
    assert_ne!(push("topic/a", "a").status.code(), Some(0));
    let ask = |branch: &str| {
        call(
            &bottle,
            "propose_ref",
            &json!({ "upstream": "x", "branches": [branch], "reason": "a topic branch" }),
        )
    };
    assert!(ask("{agent}/*").unwrap_err().contains("already"));
    assert!(
        call(&bottle, "propose_ref", &json!({ "upstream": "y", "branches": ["a"], "reason": "r" }))
            .unwrap_err()
            .contains("no git upstream")
    );
    assert_eq!(ask("topic/*").unwrap()["id"], 1);
    let broad = call(
        &bottle,
        "propose_ref",
        &json!({ "upstream": "x", "branches": ["main"], "reason": "r" }),
    )
    .unwrap();
    assert_eq!(broad["id"], 2, "another ask about the same repository takes its place");
    refused(&home.run(&["proposals", "approve", "worker/1"]), "superseded");
    refused(&home.run(&["proposals", "approve", "worker/2"]), "BRANCHES");
    assert_eq!(ask("topic/*").unwrap()["id"], 3);
    refused(&home.run(&["proposals", "approve", "worker/3", "--once"]), "not one request");
    assert_code(&home.run(&["proposals", "approve", "worker/3", "--for", "8s"]), 0);
    assert_code(&push("topic/b", "b"), 0);
    assert!(upstream.refs().contains("refs/heads/topic/b"));
    eventually("its time is over", || document(&home, 3)["decision"]["effect"] == "over");
    assert_ne!(push("topic/c", "c").status.code(), Some(0));

    // A repository is for the next launch, and so for the manifest.
    let more = json!({ "url": "https://git.example.test/me/y.git", "reason": "a library" });
    assert_eq!(call(&bottle, "propose_git_upstream", &more).unwrap()["id"], 4);
    refused(
        &home.run(&["proposals", "approve", "worker/4"]),
        "cannot be added while the bottle runs",
    );
    assert_code(&home.run(&["proposals", "approve", "worker/4", "--save"]), 0);
    let toml = std::fs::read_to_string(home.project().join("bottle.toml")).unwrap();
    assert!(
        toml.ends_with("[[bottles.dev.git]]\nurl = \"https://git.example.test/me/y.git\"\n"),
        "{toml}"
    );
    bottle.stop();
}

/// Leads each connection at `socket` to the supervise port inside the bottle, through `bottle
/// exec`.
async fn lead_inside(home: &Home, listener: tokio::net::UnixListener) {
    let script = "exec 3<>/dev/tcp/127.0.0.1/9100; cat <&3 & cat >&3";
    while let Ok((stream, _)) = listener.accept().await {
        let mut command = tokio::process::Command::from(
            home.bottle(&["exec", "worker", "--", "bash", "-c", script]),
        );
        let stdio = std::process::Stdio::piped;
        let mut child = command.stdin(stdio()).stdout(stdio()).kill_on_drop(true).spawn().unwrap();
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        tokio::task::spawn_local(async move {
            let (mut read, mut write) = stream.into_split();
            let up = async {
                let _ = tokio::io::copy(&mut read, &mut to).await;
            };
            let down = async {
                let _ = tokio::io::copy(&mut from, &mut write).await;
            };
            tokio::select! { () = up => {}, () = down => {} }
            let _ = child.kill().await;
        });
    }
}

/// The official SDK's client, whose every byte goes through a bottle: is denied, proposes, waits,
/// is approved, and gets through.
type Client = rmcp::service::RunningService<rmcp::RoleClient, ()>;

/// `work` with the SDK's client, led to the server in the bottle.
fn with_sdk<R>(home: &Home, work: impl AsyncFnOnce(&Client) -> R) -> R {
    use rmcp::ServiceExt;
    use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
    use rmcp::transport::{StreamableHttpClientTransport, UnixSocketHttpClient};
    const URL: &str = "http://127.0.0.1:9100/";
    let socket = home.path().join("sdk");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let asked = async {
            let http = UnixSocketHttpClient::new(socket.to_str().unwrap(), URL);
            let config = StreamableHttpClientTransportConfig::with_uri(URL);
            let client =
                ().serve(StreamableHttpClientTransport::with_client(http, config)).await.unwrap();
            work(&client).await
        };
        tokio::select! {
            done = asked => done,
            () = lead_inside(home, listener) => panic!("the listener ended"),
        }
    })
}

/// Denied before, the client asks for what would have been let through; what it is told.
async fn sdk_asks(client: &Client, reason: &str, wait: u32) -> Value {
    let call = async |name: &'static str, args: Value| {
        let params = rmcp::model::CallToolRequestParams::new(name)
            .with_arguments(args.as_object().unwrap().clone());
        client.call_tool(params).await.unwrap().structured_content.unwrap()
    };
    let denied = call("explain_denial", json!({ "last": 1 })).await;
    let mut wanted = denied["denials"][0]["propose_route"].clone();
    wanted["reason"] = json!(reason);
    wanted["wait_seconds"] = json!(wait);
    call("propose_route", wanted).await
}

fn sdk() {
    let home = Home::with_manifest(MANIFEST);
    let bottle = up(&home);
    let port = upstream();
    let url = format!("http://127.0.0.1:{port}/v1/x");
    assert!(get(&bottle, &url).contains("[no-route]"));
    let told = with_sdk(&home, async |client| {
        assert_eq!(client.list_all_tools().await.unwrap().len(), 8);
        let approved = async {
            let approve = || {
                home.run(&["proposals", "approve", "worker/1", "--type", "127.0.0.1"])
                    .status
                    .success()
            };
            while !approve() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::join!(sdk_asks(client, "the SDK's client needs it", 50), approved).0
    });
    assert_eq!(told["state"], "approved", "{told}");
    assert_eq!(get(&bottle, &url), "through");
    bottle.stop();
}

/// `bottle web`, and what it printed.
struct Page {
    child: std::process::Child,
    port: u16,
    token: String,
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Page {
    fn start(home: &Home) -> Self {
        let mut child = home
            .bottle(&["web"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let (address, token) = line.trim().split_once("/#").unwrap();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        Self { child, port, token: token.to_owned() }
    }

    /// Sends a request with its places filled in; status and text of the answer.
    fn send(&self, request: &str, key: &str, decision: &Value) -> (u16, String) {
        let whole = |body: String| format!("content-length: {}\r\n\r\n{body}", body.len());
        let request = request
            .replace("{key}", key)
            .replace("{token}", &self.token)
            .replace("{port}", &self.port.to_string());
        let request = request
            .replace("{login}", &whole(json!({ "token": self.token }).to_string()))
            .replace("{body}", &whole(decision.to_string()))
            .replace("{stop}", &whole(json!({ "bottle": "worker" }).to_string()))
            .replace("{large}", &whole(" ".repeat(20_000) + &decision.to_string()));
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .write_all(request.replacen("\r\n", "\r\nconnection: close\r\n", 1).as_bytes())
            .unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        (text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0), text)
    }
}

fn screens() {
    use crate::attacks::supervise_page as table;
    let home = Home::with_manifest(MANIFEST);
    let bottle = up(&home);
    for host in ["one.test", "*.two.test", "three.test", "four.test"] {
        propose(&bottle, host, 443, true, &["/x"]).unwrap();
    }
    let state = |id: u32| document(&home, id)["state"].as_str().unwrap().to_owned();

    // The dashboard, on a terminal: the newest is chosen. One key is a yes, but not for what is
    // wide.
    let dashboard = || {
        let mut terminal = crate::support::terminal::Terminal::start(&home, &["dashboard"]);
        terminal.expect("one.test");
        terminal
    };
    let mut terminal = dashboard();
    terminal.type_keys("jja");
    terminal.expect("WIDE");
    terminal.type_keys("*.two.tes\r");
    terminal.expect("every name below it, whoever owns it); it");
    assert_eq!(state(2), "pending");
    terminal.type_keys("a*.two.test\r");
    terminal.expect("in force");
    assert_eq!(state(2), "approved");
    terminal.type_keys("q");
    assert_eq!(terminal.code(), Some(0));
    let mut terminal = dashboard();
    terminal.type_keys("a");
    terminal.expect("in force");
    assert_eq!(state(4), "approved");
    terminal.type_keys("q");
    assert_eq!(terminal.code(), Some(0));

    // The page. Its token buys the key once; what is not from the page changes nothing.
    let page = Page::start(&home);
    let login = "POST /login HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{login}";
    let (status, text) = page.send(login, "", &Value::Null);
    assert_eq!(status, 200, "{text}");
    let key: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let key = key["key"].as_str().unwrap();
    let digest = |id: u32| {
        let shown = stdout(&home.run(&["proposals", "show", &format!("worker/{id}")]));
        assert!(shown.contains("--against"), "{shown}");
        let policy = std::fs::read(home.runtime("worker").join("policy.json")).unwrap();
        bottle_policy::Policy::from_json(&policy).unwrap().digest()
    };
    let yes = |against: String| json!({ "bottle": "worker", "id": 3, "verdict": { "approve": { "against": against, "scope": "launch", "route": null, "typed": null, "answer": null } } });
    let before = digest(3);
    for table::Case(name, request, want, _) in table::CASES {
        let (status, text) = page.send(request, key, &yes(before.clone()));
        assert_eq!(status, *want, "{name}: {text}");
        assert!(
            !text.contains("\"done\"") && !text.to_lowercase().contains("access-control-allow"),
            "{name}: {text}"
        );
        assert_eq!(state(3), "pending", "{name}");
    }
    let (_, text) = page.send(&table::honest(), key, &yes("0".repeat(64)));
    assert!(text.contains("the policy has changed"), "{text}");
    let (status, text) = page.send(&table::honest(), key, &yes(before));
    assert_eq!((status, state(3).as_str()), (200, "approved"), "{text}");
    let (_, front) =
        page.send("GET / HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n", key, &Value::Null);
    assert!(
        front.contains("default-src 'none'")
            && front.contains("trusted-types 'none'")
            && !front.contains("http://"),
        "{front}"
    );
    let twins = table::CASES.iter().filter(|c| !c.3.is_empty()).count();
    eprintln!(
        "{} requests to the page, {twins} of which have a twin in cli::web::attacks",
        table::CASES.len()
    );
    bottle.stop();
}

/// A real browser: all that the page can do, by mouse and by keyboard. Where `BOTTLE_CHROMIUM`
/// names none, nothing is tried.
fn browser() {
    let Some(mut page) = crate::support::browser::Browser::start() else {
        eprintln!("BOTTLE_CHROMIUM names no browser: not tried");
        return;
    };
    let home = Home::with_manifest(MANIFEST);
    let mut bottle = up(&home);
    let port = upstream();
    let url = format!("http://127.0.0.1:{port}/v1/x");
    assert!(get(&bottle, &url).contains("[no-route]"));
    let with = |mut ask: Value, reason: &str| {
        ask["reason"] = json!(reason);
        call(&bottle, "propose_route", &ask).unwrap()["id"].as_u64().unwrap()
    };
    let hostile = "<img src=x onerror=\"document.title='taken'\"><b>bold</b> \u{202e}+ evil";
    let told = with_sdk(&home, async |client| {
        sdk_asks(client, "the tests fetch their fixtures there", 0).await
    });
    assert_eq!((&told["id"], &told["state"]), (&json!(1), &json!("pending")));
    assert_eq!(
        with(json!({ "host": "a.test", "methods": ["GET", "POST"], "paths": ["/v1/*"] }), hostile),
        2
    );
    assert_eq!(with(json!({ "host": "b.test", "methods": ["GET"], "paths": ["/"] }), "to read"), 3);
    assert_eq!(
        call(&bottle, "ask_operator", &json!({ "question": "Which one?", "choices": ["a", "b"] }))
            .unwrap()["id"],
        4
    );
    let state = |id: u32| document(&home, id)["state"].as_str().unwrap().to_owned();

    let web = Page::start(&home);
    page.open(&format!("http://127.0.0.1:{}/#{}", web.port, web.token));
    page.until("document.querySelectorAll('#proposals article').length === 4");
    assert_eq!(page.value("location.hash"), "", "the token is not left in the address");
    page.picture("web.png");
    // Nothing of an agent's is markup, and nothing could be: the policy refuses it even to our own
    // script.
    assert_eq!(page.value("document.querySelectorAll('#proposals img, #proposals b').length"), 0);
    assert_ne!(page.value("document.title"), "taken");
    assert_eq!(
        page.value(
            "document.querySelector('[data-id=\"worker/2\"]').innerText.includes('<img src=x')"
        ),
        true
    );
    assert_eq!(
        page.value(
            "document.querySelector('[data-id=\"worker/2\"]').innerText.includes('\\u202e')"
        ),
        false
    );
    assert_eq!(page.complaints, Vec::<String>::new());
    assert_eq!(
        page.value("(() => { try { document.body.innerHTML = '<i>x</i>'; return 'taken'; } catch (e) { return e.name; } })()"),
        "TypeError"
    );
    assert_eq!(
        page.value("fetch('http://127.0.0.1:1/').then(() => 'taken', (e) => e.name)"),
        "TypeError"
    );
    // Every control has a name, and everything can be reached by keyboard.
    let unnamed = "[...document.querySelectorAll('button, input')].filter((e) => !(e.ariaLabel || e.innerText || e.id.startsWith('ask-') || e.id.startsWith('edit-') || document.querySelector(`label[for=\"${e.id}\"]`))).length";
    assert_eq!(page.value(unnamed), 0);

    // It is wide: its button asks for the host, and takes no other.
    let click = |page: &mut crate::support::browser::Browser, id: u32, name: &str| {
        page.value(&format!("document.querySelector('[data-id=\"worker/{id}\"] .{name}').click()"));
    };
    let status = |page: &mut crate::support::browser::Browser, text: &str| {
        page.until(&format!(
            "document.getElementById('status').textContent.includes({})",
            json!(text)
        ))
    };
    click(&mut page, 1, "approve");
    page.until("document.getElementById('ask').open");
    page.type_text("127.0.0.2");
    page.press("Enter");
    status(&mut page, "needs 127.0.0.1 typed");
    click(&mut page, 1, "approve");
    page.press("Escape");
    status(&mut page, "nothing is decided");
    assert_eq!(state(1), "pending");
    click(&mut page, 1, "approve");
    page.type_text("127.0.0.1");
    page.press("Enter");
    status(&mut page, "proposal 1 is in force");
    assert_eq!(get(&bottle, &url), "through");

    // Narrowed; wider is refused by the orchestrator.
    let edit = |page: &mut crate::support::browser::Browser, paths: &str| {
        click(page, 2, "narrow");
        page.until("document.getElementById('edit').open");
        page.value(&format!(
            "(() => {{ const e = document.getElementById('edit-paths'); e.value = ''; e.focus(); }})() ?? {}",
            json!(paths)
        ));
        page.type_text(paths);
        page.value("document.getElementById('edit-yes').click()");
    };
    edit(&mut page, "/v2");
    status(&mut page, "only narrow");
    page.until("document.querySelector('[data-id=\"worker/2\"] .narrow') !== null");
    edit(&mut page, "/v1/x");
    status(&mut page, "proposal 2 is in force");
    assert_eq!(document(&home, 2)["decision"]["route"]["paths"], json!(["/v1/x"]));
    assert_eq!(state(2), "edited");

    // By keyboard alone: to the button, its key, the reason.
    page.value("document.querySelector('[data-id=\"worker/3\"] .deny').focus()");
    page.press(" ");
    page.until("document.getElementById('ask').open");
    page.type_text("not needed");
    page.press("Enter");
    status(&mut page, "proposal 3 is denied");
    assert_eq!(document(&home, 3)["decision"]["text"], "not needed");
    click(&mut page, 4, "approve");
    page.type_text("2");
    page.press("Enter");
    status(&mut page, "question 4 is answered");
    assert_eq!(document(&home, 4)["decision"]["text"], "b");

    // The log comes by itself, and is filtered as one types.
    page.until("document.getElementById('log').textContent.includes('proposal 3 denied')");
    page.value("document.getElementById('filter').focus()");
    page.type_text("NO-ROUTE");
    page.until(
        "(() => { const t = document.getElementById('log').textContent; return t.includes('no-route') && !t.includes('denied by'); })()",
    );

    // Another tab has no key, and the URL works once.
    let mut other = crate::support::browser::Browser::start().unwrap();
    other.open(&format!("http://127.0.0.1:{}/#{}", web.port, web.token));
    status(&mut other, "used already");
    assert_eq!(other.value("document.querySelectorAll('#proposals article').length"), 0);

    // And its end, with its name typed.
    page.value("document.querySelector('#bottles .stop').click()");
    page.type_text("worker");
    page.press("Enter");
    status(&mut page, "worker is stopped");
    assert_eq!(bottle.wait().code(), Some(143));
}

/// The orchestrator dies right after it has written a decision down, and right after it is in
/// force.
fn dies_between() {
    for step in ["die-Decided", "die-InForce"] {
        let home = Home::faulty();
        let toml = home.project().join("bottle.toml");
        std::fs::write(&toml, MANIFEST).unwrap();
        let mut bottle = home.start_with("worker", &["worker"], &[("BOTTLE_FAULT", step)]);
        bottle.wait_until_up();
        assert_eq!(propose(&bottle, "a.test", 443, true, &["/x"]).unwrap()["id"], 1);
        let out = home.run(&["proposals", "approve", "worker/1", "--save"]);
        assert_code(&out, 4);
        assert!(stderr(&out).contains("it may have decided"), "{}", stderr(&out));
        bottle.wait();
        eventually("its bottle is gone", || {
            home.run(&["cleanup"]).status.success() && home.leftovers("worker").is_empty()
        });
        let shown = stdout(&home.run(&["proposals", "show", "worker/1"]));
        assert!(shown.contains("its next launch tells"), "{shown}");
        assert_eq!(std::fs::read_to_string(&toml).unwrap(), MANIFEST, "{step}");
        drop(bottle);

        let bottle = up(&home);
        assert_eq!(document(&home, 1)["state"], "pending", "{step}: it is asked again");
        assert_code(&home.run(&["proposals", "approve", "worker/1", "--save"]), 0);
        assert_eq!(std::fs::read_to_string(&toml).unwrap().matches("host = \"a.test\"").count(), 1);
        refused(&home.run(&["proposals", "approve", "worker/1", "--save"]), "approved already");
        assert_code(&home.run(&["audit", "verify", "worker"]), 0);
        bottle.stop();
    }
}

fn decided_once() {
    let home = Home::with_manifest(MANIFEST);
    let mut bottle = up(&home);
    for id in 1..=3 {
        let host = format!("h{id}.test");
        assert_eq!(propose(&bottle, &host, 443, true, &["/"]).unwrap()["id"], id);
        // Eight at once, half of them yes: one of them wins, and the others are told who.
        let digest = document(&home, id)["policy"].as_str().unwrap().to_owned();
        let name = format!("worker/{id}");
        let outs: Vec<Output> = std::thread::scope(|scope| {
            let run = |n: usize| {
                let args: Vec<&str> = if n % 2 == 0 {
                    vec!["proposals", "approve", &name, "--against", &digest]
                } else {
                    vec!["proposals", "deny", &name]
                };
                home.run(&args)
            };
            let all: Vec<_> = (0..8).map(|n| scope.spawn(move || run(n))).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let winners = outs.iter().filter(|o| o.status.success()).count();
        assert_eq!(winners, 1, "{:?}", outs.iter().map(stderr).collect::<Vec<_>>());
        assert!(
            outs.iter().filter(|o| !o.status.success()).all(|o| stderr(o).contains("already, by")),
            "and are told"
        );
    }

    // The operator's program dies right after it has asked: the decision is whole or not there.
    assert_eq!(propose(&bottle, "h4.test", 443, true, &["/"]).unwrap()["id"], 4);
    let digest = {
        let shown = stdout(&home.run(&["proposals", "show", "worker/4"]));
        shown
            .split("--against ")
            .nth(1)
            .and_then(|r| r.split_whitespace().next())
            .map(str::to_owned)
    };
    let mut args = vec!["proposals", "approve", "worker/4"];
    if let Some(digest) = &digest {
        args.extend(["--against", digest]);
    }
    let mut child = home.bottle(&args).stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(6));
    let _ = child.kill();
    let _ = child.wait();
    eventually("no decision stays half made", || {
        let d = document(&home, 4);
        d["state"] == "pending" || d["decision"]["effect"].get("in-force").is_some()
    });

    // The orchestrator dies: what was open is not open any more, and nothing is decided twice
    // later.
    assert_eq!(propose(&bottle, "h5.test", 443, true, &["/"]).unwrap()["id"], 5);
    bottle.signal(nix::sys::signal::Signal::SIGKILL);
    bottle.wait();
    eventually("its bottle is gone", || {
        home.run(&["cleanup"]).status.success() && home.leftovers("worker").is_empty()
    });
    assert_eq!(document(&home, 5)["state"], "expired");
    assert_code(&home.run(&["proposals", "approve", "worker/5"]), 2);
    drop(bottle);

    let mut bottle = up(&home);
    refused(&home.run(&["proposals", "approve", "worker/5"]), "expired");
    assert_eq!(
        propose(&bottle, "h5.test", 443, true, &["/"]).unwrap()["id"],
        6,
        "numbers are never used again"
    );
    // The daemon dies: the bottle ends, as without any of its daemons.
    let pid = crate::support::processes_naming(home.path())
        .into_iter()
        .find(|(_, argv)| argv.contains(" supervise "))
        .expect("the daemon")
        .0;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    assert_eq!(bottle.wait().code(), Some(4), "{}", bottle.said());
    assert_eq!(document(&home, 6)["state"], "expired");
    assert_code(&home.run(&["audit", "verify", "worker"]), 0);
    assert_eq!(home.leftovers("worker"), Vec::<String>::new());
}
