//! The real `bottle-bundle git-gate` between real git clients and a real upstream behind sshd.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "git_gate/client.rs"]
mod client;
#[path = "git_gate/forge.rs"]
mod forge;
#[path = "support/reports.rs"]
mod reports;
#[path = "git_gate/world.rs"]
mod world;

use std::fs;

use bottle_policy::audit::verify;
use client::run;
use reports::Reports;
use world::{Gate, Upstream};

fn nothing() -> serde_json::Value {
    serde_json::json!({})
}

/// A key in a format that scanners know. It is assembled here so that no file contains one.
fn github_token() -> String {
    format!("ghp_{}", "k3Jd92LmQx7VbT0sYw5RzN8fPc1HgA4uE6oX")
}

#[test]
fn clone_fetch_and_push_go_through_and_are_audited() {
    let Some(upstream) = Upstream::start() else { return };
    let gate = Gate::start(&[upstream.policy("x")], &nothing());
    let work = gate.clone("x");
    assert_eq!(fs::read_to_string(work.path.join("README")).unwrap(), "hello\n");

    work.ok(&["checkout", "-qb", "agent/one"]);
    work.commit("a.txt", "content\n", "second");
    let (ok, said) = work.push(&["origin", "agent/one"]);
    assert!(ok, "{said} {}", gate.audit());
    let new = work.ok(&["rev-parse", "HEAD"]);
    assert!(upstream.refs("x").contains(&format!("refs/heads/agent/one {}", new.trim())));
    work.commit("a.txt", "more\n", "third");
    let (ok, said) = work.push(&["origin", "agent/one"]);
    assert!(ok, "{said}");

    // A fetch brings what somebody else has pushed in the meantime.
    let other = upstream.dir.path().join("x-work");
    fs::write(other.join("new"), "n").unwrap();
    run(client::git(&other).args(["add", "."]));
    run(client::git(&other).args(["commit", "-qm", "other"]));
    run(client::git(&other).args(["push", "-q"]).arg(upstream.repo("x")).arg("main"));
    work.ok(&["pull", "-q", "--no-rebase", "origin", "main"]);
    assert!(work.path.join("new").exists());

    let audit = gate.audit();
    assert!(verify(audit.as_bytes()).unwrap().lines > 6);
    assert!(
        audit.contains(&format!("refs/heads/agent/one {} {}", "0".repeat(12), &new[..12])),
        "{audit}"
    );
    assert_eq!(gate.quarantine("x"), 0);
}

#[test]
fn a_planted_key_is_refused_with_its_place_and_the_upstream_is_untouched() {
    let Some(upstream) = Upstream::start() else { return };
    let gate = Gate::start(&[upstream.policy("x")], &nothing());
    let work = gate.clone("x");
    let before = upstream.refs("x");
    work.ok(&["checkout", "-qb", "agent/leak"]);
    work.commit(
        "src/a.rs",
        format!("fn a() {{}}\nlet k = \"{}\"; // gitleaks:allow\n", github_token()),
        "leak",
    );
    let (ok, said) = work.push(&["origin", "agent/leak"]);
    assert!(
        !ok && said.contains("src/a.rs:2")
            && said.contains("fingerprint")
            && !said.contains(&github_token()),
        "{said}"
    );
    assert_eq!(upstream.refs("x"), before);
    assert!(!gate.audit().contains(&github_token()));
    assert_eq!(gate.quarantine("x"), 0);
}

fn planted() -> serde_json::Value {
    serde_json::json!({"tokens": {"FORGE": world::TOKEN}})
}

/// Whether a file below `dir` contains `text`.
fn holds(dir: &std::path::Path, text: &str) -> bool {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file()
                && fs::read(entry.path()).unwrap().windows(text.len()).any(|w| w == text.as_bytes())
            {
                return true;
            }
        }
    }
    false
}

#[test]
fn a_deploy_key_works_without_touching_the_disk() {
    let Some(upstream) = Upstream::start() else { return };
    let mut policy = upstream.policy("x");
    policy["access"] = serde_json::json!({"key": "DEPLOY"});
    let key = upstream.key("user");
    let mut gate = Gate::start(&[policy], &serde_json::json!({"tokens": {"DEPLOY": key}}));
    let work = gate.clone("x");
    work.commit("a", "a", "work");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/a"]);
    assert!(ok, "{said}");
    let line = key.lines().nth(2).unwrap();
    assert!(!holds(gate.dir.path(), line));
    // Pushes are scanned for it, as for every secret of the bundle.
    work.commit("id", key.lines().skip(1).take(4).collect::<Vec<_>>().join("\n"), "leak");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/a"]);
    assert!(!ok && said.contains("[secret]") && !said.contains(line), "{said}");
    assert!(!gate.log().contains(line));
}

#[test]
fn an_upstream_with_another_host_key_or_for_another_key_is_not_reached() {
    let Some(upstream) = Upstream::start() else { return };
    let mut impostor = upstream.policy("x");
    impostor["known_hosts"] = upstream.known_hosts("other").into();
    let mut stranger = upstream.policy("x");
    stranger["name"] = "y".into();
    stranger["access"] = serde_json::json!({"identity_file": upstream.dir.path().join("other")});
    let gate = Gate::start(&[impostor, stranger], &nothing());
    for (name, why) in [("x", "ost key verification failed"), ("y", "ermission denied")] {
        let out =
            client::git(upstream.dir.path()).args(["ls-remote", &gate.url(name)]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            !out.status.success() && said.contains("[upstream]") && said.contains(why),
            "{said}"
        );
    }
    assert!(gate.audit().contains("\"rule\":\"upstream\""));
}

#[test]
fn an_https_upstream_gets_its_token_and_nobody_else_sees_it() {
    let Some(upstream) = Upstream::start() else { return };
    run(client::git(&upstream.repo("x")).args(["config", "http.receivepack", "true"]));
    let forge = forge::Forge::start(upstream.dir.path().to_owned(), world::TOKEN);
    let policy = |access: serde_json::Value, cert: &str| {
        serde_json::json!({
            "name": "x", "url": format!("https://forge.test:{}/x.git", forge.port), "access": access, "ca": cert,
            "connect": format!("127.0.0.1:{}", forge.port), "push": {"branches": ["agent/*"]},
        })
    };
    let token = serde_json::json!({"token": "FORGE"});
    let mut gate = Gate::start(&[policy(token.clone(), &forge.cert)], &planted());
    let work = gate.clone("x");
    work.commit("a", "a", "work");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/a"]);
    assert!(ok, "{said}");
    assert!(upstream.refs("x").contains("refs/heads/agent/a"));
    assert!(!holds(gate.dir.path(), world::TOKEN) && !said.contains(world::TOKEN));
    assert!(!gate.log().contains(world::TOKEN));

    let before = forge.seen.lock().unwrap().len();
    let gate = Gate::start(&[policy(serde_json::json!("none"), &forge.cert)], &planted());
    let out =
        client::git(upstream.dir.path()).args(["ls-remote", &gate.url("x")]).output().unwrap();
    assert!(!out.status.success(), "without its token");
    let other = forge::Forge::start(upstream.dir.path().to_owned(), "x").cert;
    let gate = Gate::start(&[policy(token, &other)], &planted());
    let out =
        client::git(upstream.dir.path()).args(["ls-remote", &gate.url("x")]).output().unwrap();
    assert!(!out.status.success(), "another certificate");
    assert!(
        forge.seen.lock().unwrap()[before..].iter().all(|auth| auth == "-"),
        "and it saw no token"
    );
}

#[test]
fn a_stale_mirror_is_served_only_where_that_is_allowed() {
    let Some(upstream) = Upstream::start() else { return };
    upstream.seed("y");
    let mut lenient = upstream.policy("y");
    lenient["stale"] = "allow".into();
    let gate = Gate::start(&[upstream.policy("x"), lenient], &nothing());
    let ask = |name: &str| {
        client::git(gate.dir.path()).args(["ls-remote", &gate.url(name)]).output().unwrap()
    };
    // The initial clone ends only when the mirror is complete.
    let _clones = ["x", "y"].map(|name| gate.clone(name));
    drop(upstream);
    let out = ask("x");
    assert!(
        !out.status.success()
            && String::from_utf8_lossy(&out.stderr).contains("the upstream cannot be reached"),
        "{out:?}"
    );
    assert!(ask("y").status.success());
}

#[test]
fn odd_upstreams_are_served_or_refused_clearly() {
    let Some(upstream) = Upstream::start() else { return };
    let init = |args: &[&str], name: &str| {
        run(client::git(upstream.dir.path())
            .args(["init", "-q", "--bare"])
            .args(args)
            .arg(upstream.repo(name)))
    };
    init(&[], "empty");
    init(&["--object-format=sha256"], "sha256");
    let work = upstream.dir.path().join("w256");
    run(client::git(upstream.dir.path()).args(["init", "-q", "--object-format=sha256"]).arg(&work));
    run(client::git(&work).args(["commit", "-q", "--allow-empty", "-m", "x"]));
    run(client::git(&work).args(["push", "-q"]).arg(upstream.repo("sha256")).arg("main"));
    upstream.seed("nohead");
    run(client::git(&upstream.repo("nohead")).args(["symbolic-ref", "HEAD", "refs/heads/gone"]));
    let gate = Gate::start(&["empty", "sha256", "nohead"].map(|n| upstream.policy(n)), &nothing());
    let out =
        client::git(upstream.dir.path()).args(["ls-remote", &gate.url("sha256")]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("[object-format]"), "{out:?}");
    let work = gate.clone("empty");
    work.commit("a", "a", "first of all");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/a"]);
    assert!(ok && upstream.refs("empty").contains("agent/a"), "{said}");
    assert!(gate.clone("nohead").ok(&["branch", "-r"]).contains("origin/main"));
}

#[test]
fn shallow_partial_and_old_clients_work_and_can_push() {
    let Some(upstream) = Upstream::start() else { return };
    let gate = Gate::start(&[upstream.policy("x")], &nothing());
    let first = gate.clone("x");
    (0..5).for_each(|n| first.commit("f", format!("{n}\n"), &format!("commit {n}")));
    let (ok, said) = first.push(&["origin", "HEAD:refs/heads/agent/deep"]);
    assert!(ok, "{said}");
    for (n, args) in [
        &["--depth=1"][..],
        &["--filter=blob:none"],
        &["-c", "protocol.version=0"],
        &["-c", "protocol.version=1"],
    ]
    .iter()
    .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        run(client::git(dir.path())
            .args(["clone", "-q", "-b", "agent/deep"])
            .args(*args)
            .args([&gate.url("x"), "w"]));
        let work = client::Work { path: dir.path().join("w"), dir };
        assert_eq!(fs::read_to_string(work.path.join("f")).unwrap(), "4\n", "{args:?}");
        work.commit("g", format!("{n}"), "from there");
        let (ok, said) = work.push(&["origin", &format!("HEAD:refs/heads/agent/c{n}")]);
        assert!(ok, "{args:?}: {said}");
    }
}

#[test]
fn the_upstream_s_own_no_is_passed_on() {
    let Some(upstream) = Upstream::start() else { return };
    upstream.hook("x", "pre-receive", "echo 'the forge says no'; exit 1");
    let gate = Gate::start(&[upstream.policy("x")], &nothing());
    let work = gate.clone("x");
    work.commit("a", "a", "work");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/a"]);
    assert!(
        !ok && said.contains("upstream: the forge says no") && said.contains("[upstream-refused]"),
        "{said}"
    );
    assert_eq!(gate.quarantine("x"), 0);
    assert!(
        gate.audit().contains("\"answer\":\"the upstream refused the push"),
        "{}",
        gate.audit()
    );
}

/// The stage of the push at which the daemon is killed, and whether the upstream has it then.
const STAGES: &[(&str, bool)] = &[
    ("its pack is half there", false),
    ("scanned", false),
    ("forwarded", false),
    ("accepted", true),
];

#[test]
fn killed_at_any_stage_of_a_push_it_leaves_all_or_nothing() {
    for (stage, arrived) in STAGES {
        let Some(upstream) = Upstream::start() else { return };
        let policy = upstream.policy("x");
        let gate = Gate::start(std::slice::from_ref(&policy), &nothing());
        let work = gate.clone("x");
        let before = upstream.refs("x");
        // Large enough that the scan is still running when it is looked for.
        let text = (0..400_000u64)
            .map(|n| format!("line {}", n * 7919 % 1_000_003))
            .collect::<Vec<_>>()
            .join("\n")
            + "\n";
        work.commit("a", if *stage == "scanned" { &text } else { "a" }, "work");
        let flag = upstream.dir.path().join("begun");
        match *stage {
            "its pack is half there" => {
                let mut noise = vec![0; 4 << 20];
                getrandom::fill(&mut noise).unwrap();
                work.commit("noise", noise, "more");
                let held =
                    client::held_bridge(gate.dir.path().join("run/s"), 1 << 20, flag.clone());
                work.ok(&["remote", "set-url", "origin", &format!("http://{held}/x.git")]);
            }
            "forwarded" => {
                upstream.hook("x", "pre-receive", &format!("touch {}; sleep 1", flag.display()))
            }
            "accepted" => {
                upstream.hook("x", "post-update", &format!("touch {}; sleep 1", flag.display()))
            }
            _ => {}
        }
        let mut push = client::git(&work.path);
        push.args(["push", "-q", "origin", "HEAD:refs/heads/agent/a"])
            .stderr(std::process::Stdio::null());
        let mut push = push.spawn().unwrap();
        client::until(stage, || {
            flag.exists()
                || (*stage == "scanned"
                    && gate.children().iter().any(|c| c.1.contains("cat-file --batch-command")))
        });
        assert_eq!(gate.quarantine("x"), 1, "{stage}");
        let gate = gate.again(&[policy], &nothing());
        assert!(!push.wait().unwrap().success(), "{stage}: no success is told");
        assert_eq!(gate.quarantine("x"), 0, "{stage}: cleaned at the next start");
        verify(gate.audit().as_bytes()).unwrap();
        let now = upstream.refs("x");
        let whole =
            now.contains(&format!("refs/heads/agent/a {}", work.ok(&["rev-parse", "HEAD"]).trim()));
        assert!(now == before || whole, "{stage}: {now}");
        // If the upstream had the pack, it may or may not have taken it; before that it has
        // nothing.
        assert!(*stage == "forwarded" || whole == *arrived, "{stage}: {now}");
        // The push can be repeated, whether or not it has arrived.
        work.ok(&["remote", "set-url", "origin", &gate.url("x")]);
        let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/a"]);
        assert!(ok, "{stage}: {said}");
    }
}

#[test]
fn an_attested_push_carries_a_note_that_ssh_keygen_verifies() {
    let Some(upstream) = Upstream::start() else { return };
    let mut policy = upstream.policy("x");
    policy["attest"] = "ATTEST".into();
    let input = serde_json::json!({"tokens": {"ATTEST": upstream.key("other")}});
    let gates = [(), ()].map(|()| Gate::start(std::slice::from_ref(&policy), &input));
    let keygen = client::program("BOTTLE_SSH_KEYGEN", &["/usr/bin/ssh-keygen"]).unwrap();
    let allowed = upstream.dir.path().join("allowed");
    fs::write(
        &allowed,
        format!(
            "me@example.test {}",
            fs::read_to_string(upstream.dir.path().join("other.pub")).unwrap()
        ),
    )
    .unwrap();
    let verified = |note: &str| {
        let (message, signature) = note.split_at(note.find("-----BEGIN").unwrap());
        let file = upstream.dir.path().join("sig");
        fs::write(&file, signature).unwrap();
        let mut verify = std::process::Command::new(&keygen);
        verify
            .args(["-Y", "verify", "-I", "me@example.test", "-n", "bot-bottle-push", "-f"])
            .arg(&allowed)
            .arg("-s")
            .arg(&file);
        verify
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut child = verify.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), message.as_bytes()).unwrap();
        child.wait().unwrap().success()
    };
    // Two bottles push to one upstream at once, and each finds the notes changed by the other.
    std::thread::scope(|scope| {
        for (n, gate) in gates.iter().enumerate() {
            scope.spawn(move || {
                let work = gate.clone("x");
                for m in 0..3 {
                    work.commit("a", format!("{n} {m}"), "work");
                    let (ok, said) =
                        work.push(&["origin", &format!("HEAD:refs/heads/agent/{n}-{m}")]);
                    assert!(ok && said.contains("attested by refs/notes/bot-bottle"), "{said}");
                }
            });
        }
    });
    let at = |args: &[&str]| run(client::git(&upstream.repo("x")).args(args));
    assert_eq!(at(&["notes", "--ref=bot-bottle", "list"]).lines().count(), 6);
    let tip = at(&["rev-parse", "refs/heads/agent/1-2"]);
    let note = at(&["notes", "--ref=bot-bottle", "show", tip.trim()]);
    for line in [
        "ref refs/heads/agent/1-2",
        &format!("new {}", tip.trim()),
        "agent claude",
        "bottle b1",
        "old none",
    ] {
        assert!(note.lines().any(|l| l == line), "{line}: {note}");
    }
    assert!(verified(&note) && !verified(&note.replace("1-2", "1-1")), "{note}");
    // A note on another branch at the same commit does not replace the first, and a ref whose name
    // ends like the notes' ref is not taken for it.
    let work = gates[0].clone("x");
    for branch in ["agent/again", "agent/y/refs/notes/bot-bottle"] {
        let (ok, said) = work.push(&["origin", &format!("{}:refs/heads/{branch}", tip.trim())]);
        assert!(ok, "{said}");
    }
    let all = at(&["notes", "--ref=bot-bottle", "show", tip.trim()]);
    let notes: Vec<&str> = all.split("\n\n").collect();
    assert!(
        notes.len() == 3
            && all.starts_with(note.trim_end())
            && notes[1].contains("ref refs/heads/agent/again"),
        "{all}"
    );
    for note in notes {
        assert!(verified(&format!("{}\n", note.trim_end())), "{note}");
    }
    assert!(
        !work.ok(&["ls-remote"]).contains("refs/gate")
            && !work.ok(&["ls-remote"]).contains("\trefs/notes")
    );
    assert!(gates[0].audit().contains("attested by"));

    // A refused push is not attested, and the agent cannot push notes itself.
    let before = upstream.refs("x");
    let work = gates[0].clone("x");
    work.commit("k", github_token(), "leak");
    assert!(
        !work.push(&["origin", "HEAD:refs/heads/agent/leak"]).0
            && !work.push(&["origin", "HEAD:refs/notes/bot-bottle"]).0
    );
    assert_eq!(upstream.refs("x"), before);
    // An upstream that refuses notes gets no push.
    upstream.hook("x", "update", "case $1 in refs/notes/*) exit 1;; esac");
    let work = gates[0].clone("x");
    work.commit("b", "b", "work");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/z"]);
    assert!(!ok && said.contains("upstream-refused"), "{said}");
    assert_eq!(upstream.refs("x"), before);
}

#[test]
fn a_mirror_of_many_pushes_stays_a_few_packs_and_its_upstream_is_not_hammered() {
    let Some(upstream) = Upstream::start() else { return };
    let gate = Gate::start(&[upstream.policy("x")], &nothing());
    let work = gate.clone("x");
    let mirror = gate.dir.path().join("state/repos/x/mirror.git");
    let packs = || {
        let all = fs::read_dir(mirror.join("objects/pack")).unwrap().map(|f| f.unwrap().path());
        all.filter(|f| f.extension().is_some_and(|e| e == "pack")).count()
    };
    // As many packs as that many pushes leave.
    for n in 0..40 {
        work.commit("a", format!("{n}"), "work");
        let fetch = ["-c", "fetch.unpackLimit=1", "fetch", "-q", "--no-auto-maintenance"];
        run(client::git(&mirror).args(fetch).arg(&work.path).arg(format!("HEAD:refs/heads/n{n}")));
    }
    assert!(packs() >= 40);
    work.ok(&["fetch", "-q"]);
    assert!(packs() < 10, "{}", packs());

    let start = std::time::Instant::now();
    for _ in 0..4 {
        work.ok(&["ls-remote", "-q"]);
    }
    assert!(start.elapsed().as_millis() >= 900, "three times a second at most");
    assert_eq!(run(client::git(&gate.clone("x").path).args(["fsck", "--strict"])), "");
}

#[test]
fn other_rules_come_into_force_while_it_runs_and_nothing_else_does() {
    let Some(upstream) = Upstream::start() else { return };
    let policy = upstream.policy("x");
    let mut gate = Gate::start(std::slice::from_ref(&policy), &nothing());
    let reports = Reports::of(&mut gate.process);
    let work = gate.clone("x");
    work.commit("a", "a", "work");
    let push = |branch: &str| work.push(&["origin", &format!("HEAD:refs/heads/{branch}")]).0;
    assert!(push("agent/a") && !push("other/a"));
    let replace = |policy: &serde_json::Value, says: &str| {
        let before = gate.audit().lines().count();
        let text = serde_json::json!({"version": 1, "agent": "claude", "slug": "b1", "upstreams": [policy]}).to_string();
        fs::write(gate.dir.path().join("new"), text).unwrap();
        fs::rename(gate.dir.path().join("new"), gate.dir.path().join("policy.json")).unwrap();
        let (digest, refused) = reports.reload();
        assert_eq!(refused.is_some(), says == "stays in force", "{refused:?}");
        let log = gate.audit();
        let mut new = log.lines().skip(before);
        let audited = new.find(|l| l.contains("\"event\":\"policy\"") && l.contains(says));
        let audited = audited.unwrap_or_else(|| panic!("{says}: {log}"));
        if refused.is_none() {
            assert!(audited.contains(&format!("policy {} in force", digest.unwrap())));
        }
    };
    let mut other = policy.clone();
    other["push"]["branches"] = serde_json::json!(["other/*"]);
    replace(&other, "in force");
    assert!(push("other/a") && !push("agent/b"));
    // The URL and the key are fixed at the launch.
    let mut elsewhere = policy.clone();
    elsewhere["url"] =
        format!("ssh://{}@forge.test:2222{}", upstream.user(), upstream.repo("y").display()).into();
    replace(&elsewhere, "stays in force");
    let mut nonsense = policy.clone();
    nonsense["push"]["branches"] = serde_json::json!(["refs/heads/x"]);
    replace(&nonsense, "stays in force");
    assert!(push("other/b") && !push("agent/b"));
    let mut read_only = policy;
    read_only.as_object_mut().unwrap().remove("push");
    replace(&read_only, "in force");
    assert!(!push("other/c") && !push("agent/c"));
    verify(gate.audit().as_bytes()).unwrap();
}

#[test]
fn fetches_at_once_share_a_refresh_and_pushes_at_once_take_turns() {
    let Some(upstream) = Upstream::start() else { return };
    let gate = Gate::start(&[upstream.policy("x")], &nothing());
    let works: Vec<client::Work> = (0..2).map(|_| gate.clone("x")).collect();
    let before = upstream.connections();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| run(client::git(gate.dir.path()).args(["ls-remote", &gate.url("x")])));
        }
    });
    let made = upstream.connections() - before;
    assert!(made <= 4, "{made} connections for eight fetches");

    let outcomes: Vec<(bool, String)> = std::thread::scope(|scope| {
        let one = |(n, work): (usize, &client::Work)| {
            work.commit("a", format!("{n}"), "mine");
            work.push(&["origin", "HEAD:refs/heads/agent/a"])
        };
        let all: Vec<_> = works.iter().enumerate().map(|it| scope.spawn(move || one(it))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|(ok, _)| *ok).count(), 1, "{outcomes:?}");
}

#[test]
fn a_start_that_fails_says_why_and_tells_no_secret() {
    let Some(upstream) = Upstream::start() else { return };
    let good = upstream.policy("x");
    let with = |key: &str, value: serde_json::Value| {
        let mut policy = good.clone();
        policy[key] = value;
        policy
    };
    for (policy, input, want) in [
        (with("access", serde_json::json!({"key": "GONE"})), planted(), "token GONE has no value"),
        (
            with("access", serde_json::json!({"key": "FORGE"})),
            planted(),
            "not an OpenSSH or PKCS#8 private key",
        ),
        (
            with("access", serde_json::json!({"token": "FORGE"})),
            planted(),
            "a token is for an https upstream",
        ),
        (with("known_hosts", serde_json::Value::Null), planted(), "needs known_hosts"),
        (
            with("access", serde_json::json!({"identity_file": "/nowhere"})),
            planted(),
            "identity file /nowhere",
        ),
        (with("url", "file:///etc".into()), planted(), "key upstreams[0].url: not a git URL"),
        (with("name", "../x".into()), planted(), "key upstreams[0].name"),
        (
            good.clone(),
            serde_json::json!({"tokens": {"FORGE": [world::TOKEN]}}),
            "standard input is no git-gate input",
        ),
    ] {
        let mut gate = Gate::spawn(tempfile::tempdir().unwrap(), &[policy], &input);
        assert_eq!(gate.wait().code(), Some(1), "{want}");
        let log = gate.log();
        assert!(log.contains(want) && !log.contains(world::TOKEN), "{want}: {log}");
    }
}

#[test]
fn it_ends_with_its_input_confined_and_with_its_socket_gone() {
    let Some(upstream) = Upstream::start() else { return };
    let mut gate = Gate::start(&[upstream.policy("x")], &nothing());
    drop(gate.clone("x"));
    drop(gate.process.stdin.take());
    assert!(gate.wait().success());
    assert!(!gate.dir.path().join("run/s").exists());
    let log = gate.log();
    assert!(log.contains("landlock") && log.contains("seccomp"), "{log}");
}

#[test]
fn a_large_clone_and_a_large_push_take_little_memory_of_ours() {
    let Some(upstream) = Upstream::start() else { return };
    let other = upstream.dir.path().join("x-work");
    let mut noise = vec![0; 40 << 20];
    getrandom::fill(&mut noise).unwrap();
    fs::write(other.join("big"), &noise).unwrap();
    run(client::git(&other).args(["add", "."]));
    run(client::git(&other).args(["commit", "-qm", "big"]));
    run(client::git(&other).args(["push", "-q"]).arg(upstream.repo("x")).arg("main"));
    let gate = Gate::start(&[upstream.policy("x")], &nothing());
    let work = gate.clone("x");
    assert_eq!(fs::metadata(work.path.join("big")).unwrap().len(), 40 << 20);
    let after_clone = gate.peak_kib();
    assert!(after_clone < 40 << 10, "{after_clone} KiB");
    getrandom::fill(&mut noise[..8 << 20]).unwrap();
    work.commit("more", &noise[..8 << 20], "more than fits into one request");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/big"]);
    assert!(ok, "{said}");
    assert!(gate.peak_kib() < 80 << 10, "{} KiB", gate.peak_kib());
    println!("peak: {after_clone} KiB after the clone, {} KiB after the push", gate.peak_kib());
}

#[test]
fn no_process_shows_a_token_and_each_child_is_confined_further() {
    let Some(upstream) = Upstream::start() else { return };
    run(client::git(&upstream.repo("x")).args(["config", "http.receivepack", "true"]));
    let flag = upstream.dir.path().join("begun");
    upstream.hook("x", "pre-receive", &format!("touch {}; sleep 1", flag.display()));
    let forge = forge::Forge::start(upstream.dir.path().to_owned(), world::TOKEN);
    let policy = serde_json::json!({
        "name": "x", "url": format!("https://forge.test:{}/x.git", forge.port), "access": {"token": "FORGE"}, "ca": forge.cert,
        "connect": format!("127.0.0.1:{}", forge.port), "push": {"branches": ["agent/*"]},
    });
    let gate = Gate::start(&[policy], &planted());
    let work = gate.clone("x");
    work.commit("a", "a", "work");
    let mut push = client::git(&work.path)
        .args(["push", "-q", "origin", "HEAD:refs/heads/agent/a"])
        .spawn()
        .unwrap();
    client::until("the upstream has it in hand", || flag.exists());
    let all = gate.children();
    let filters = |proc: &std::path::Path| -> u32 {
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("Seccomp_filters:"))
            .unwrap_or("0")
            .trim()
            .parse();
        line.unwrap()
    };
    let daemon = filters(&all[0].2);
    assert!(
        daemon > 0 && all.iter().any(|(_, line, _)| line.contains("push --porcelain")),
        "{all:?}"
    );
    for (_, line, proc) in &all[1..] {
        assert!(filters(proc) > daemon, "{line}");
        for file in ["cmdline", "environ"] {
            let text = fs::read(proc.join(file)).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains(world::TOKEN), "{file} of {line}");
        }
    }
    assert!(push.wait().unwrap().success());
    assert!(!gate.audit().contains(world::TOKEN));
}

#[test]
fn no_room_for_a_pack_leaves_nothing_behind() {
    let Some(upstream) = Upstream::start() else { return };
    let Some(prlimit) = client::program("BOTTLE_PRLIMIT", &["/usr/bin/prlimit"]) else { return };
    let gate = Gate::start(&[upstream.policy("x")], &nothing());
    let work = gate.clone("x");
    let before = upstream.refs("x");
    let limit = |bytes: &str| {
        run(std::process::Command::new(&prlimit).args([
            "--pid",
            &gate.process.id().to_string(),
            &format!("--fsize={bytes}:"),
        ]))
    };
    limit("200000");
    let mut noise = vec![0; 500_000];
    getrandom::fill(&mut noise).unwrap();
    work.commit("noise", &noise, "large");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/a"]);
    assert!(!ok && said.contains("[host]"), "{said}");
    assert_eq!((upstream.refs("x"), gate.quarantine("x")), (before, 0));
    limit("unlimited");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/a"]);
    assert!(ok, "and with room it goes: {said}");
}

#[test]
fn one_upstream_can_be_read_only_beside_another() {
    let Some(upstream) = Upstream::start() else { return };
    upstream.seed("y");
    let mut read_only = upstream.policy("y");
    read_only.as_object_mut().unwrap().remove("push");
    let gate = Gate::start(&[upstream.policy("x"), read_only], &nothing());
    let work = gate.clone("y");
    work.commit("a", "a", "work");
    let (ok, said) = work.push(&["origin", "HEAD:refs/heads/agent/a"]);
    assert!(!ok && said.contains("[read-only]"), "{said}");
    let (ok, said) = work.push(&[&gate.url("x"), "HEAD:refs/heads/agent/a"]);
    assert!(ok, "{said}");
}

#[test]
fn in_the_guest_every_spelling_leads_to_the_gate_submodules_too() {
    let Some(upstream) = Upstream::start() else { return };
    upstream.seed("y");
    let gate = Gate::start(&[upstream.policy("x"), upstream.policy("y")], &nothing());
    let home = tempfile::tempdir().unwrap();
    let of = |name: &str| {
        format!("git@forge.test:me/{name}.git")
            .parse::<bottle_policy::GateUrl>()
            .unwrap()
            .spellings()
    };
    for name in ["x", "y"] {
        for spelling in of(name) {
            run(client::git(home.path()).args([
                "config",
                "--global",
                "--add",
                &format!("url.{}.insteadOf", gate.url(name)),
                &spelling,
            ]));
        }
    }
    for url in [
        "git@forge.test:me/x.git",
        "git@forge.test:me/x",
        "ssh://git@forge.test/me/x",
        "https://forge.test/me/x.git",
        "https://forge.test/me/x",
    ] {
        run(client::git(home.path()).args(["ls-remote", "--exit-code", url]));
    }
    run(client::git(home.path()).args(["clone", "-q", "https://forge.test/me/x", "w"]));
    let work = client::Work { path: home.path().join("w"), dir: tempfile::tempdir().unwrap() };
    let there = |args: &[&str]| run(client::git(&work.path).env("HOME", home.path()).args(args));
    there(&["submodule", "--quiet", "add", "../y.git", "sub"]);
    there(&["commit", "-qm", "a submodule"]);
    there(&["push", "-q", "origin", "HEAD:refs/heads/agent/sub"]);
    assert!(work.path.join("sub/README").exists() && upstream.refs("x").contains("agent/sub"));
}
