//! Decisions by command: scopes, edits, crashes between their steps.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{MANIFEST, call, document, get, propose, refused, up, upstream};
use crate::support::{Home, assert_code, eventually, stderr, stdout};

pub fn approved() {
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

pub fn scopes() {
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
    refused(&edit("s,GET,G:T,"), "not a route");
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

pub fn branches() {
    let upstream = crate::lifecycle::git::Upstream::start();
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

/// The orchestrator dies right after it has written a decision down, and right after it is in
/// force.
pub fn dies_between() {
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

pub fn decided_once() {
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
