//! The table of pushes, each made by the git in a bottle, through all that a launch starts; the
//! upstream has a real sshd before it.

#[path = "../../../bundle/tests/git_gate/client.rs"]
mod client;
mod pushes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use bottle_bundle::git_gate::refusal::Rule;

use super::Case;
use crate::lifecycle::git::Upstream;
use crate::support::{Home, assert_code, stderr, stdout};
use client::{Work, git, run};
use pushes::{By, CASES as PUSHES, OWN};

pub const CASES: &[Case] = &[("attacks::git::no_push_of_the_table_leaves_a_bottle", none_leaves)];

/// What each push of the table is made in: a clone of an upstream with main, agent/old and the tag
/// agent-1.
fn seed(upstream: &Upstream) -> Work {
    let dir = tempfile::tempdir().unwrap();
    run(git(dir.path()).args(["clone", "-q"]).arg(upstream.at("x.git")).arg("w"));
    let work = Work { path: dir.path().join("w"), dir };
    work.ok(&["checkout", "-qb", "agent/old"]);
    fs::write(work.path.join("paths"), "/etc/passwd").unwrap();
    work.commit("old", "old\n", "second");
    work.ok(&["tag", "agent-1"]);
    work.ok(&["push", "-q", "origin", "agent/old", "agent-1"]);
    work.ok(&["remote", "set-url", "origin", &upstream.url()]);
    work
}

fn none_leaves() {
    let upstream = Upstream::start();
    let seed = seed(&upstream);
    let policy = "branches = [\"agent/*\", \"main\", \"Main\"]\nprotected = [\"main\"]\ntags = [\"agent-*\"]\nauthors = [\"*@agent.test\"]\n\
                  committers = [\"*@agent.test\"]\nmax_pack = 200000\nmax_blob = 100000\nmax_objects = 60\n";
    let own =
        "[[bottles.dev.egress]]\nhost = \"api.test\"\ninject = { token = { file = \"own\" } }\n";
    let manifest = upstream.manifest().replace("branches = [\"{agent}/*\"]\n", policy) + own;
    let home = Home::with_manifest(&manifest);
    let token = home.project().join("own");
    fs::write(&token, OWN).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();

    // Made here, as a git of its own in the bottle could make them; the bottle only pushes.
    let made = tempfile::tempdir().unwrap();
    for (n, case) in PUSHES.iter().enumerate() {
        let path = made.path().join(n.to_string());
        run(std::process::Command::new("cp").arg("-r").arg(&seed.path).arg(&path));
        let work = Work { path: path.clone(), dir: tempfile::tempdir().unwrap() };
        fs::write(path.join(".git/args"), (case.4)(&work).join("\0")).unwrap();
    }
    let tarred = home.path().join("made.tar");
    run(std::process::Command::new("tar")
        .arg("cf")
        .arg(&tarred)
        .arg("-C")
        .arg(made.path())
        .arg("."));

    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    let mut unpack =
        home.bottle(&["exec", "worker", "--", "sh", "-c", "mkdir ~/made && tar x -C ~/made"]);
    assert_code(&unpack.stdin(fs::File::open(tarred).unwrap()).output().unwrap(), 0);
    let before = upstream.refs();
    let all = format!(
        "cd ~/made; for n in $(seq 0 {}); do cd $n; xargs -0 git push <.git/args >.git/said 2>&1; echo $? >.git/code; cd ..; done; \
         tar c */.git/said */.git/code",
        PUSHES.len() - 1
    );
    let out = home.run(&["exec", "worker", "--", "sh", "-c", &all]);
    assert_code(&out, 0);
    assert_eq!(upstream.refs(), before, "something got through");
    let answers = made.path().join("answers");
    fs::create_dir(&answers).unwrap();
    let mut unpack = std::process::Command::new("tar")
        .args(["xo", "-C"])
        .arg(&answers)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut unpack.stdin.take().unwrap(), &out.stdout).unwrap();
    assert!(unpack.wait().unwrap().success());

    let mut wrong = Vec::new();
    for (n, case) in PUSHES.iter().enumerate() {
        let read = |name: &str| {
            String::from_utf8_lossy(&fs::read(answers.join(format!("{n}/.git/{name}"))).unwrap())
                .into_owned()
        };
        let said = read("said");
        // With all rules in force another one may be first.
        let refused =
            case.2.iter().chain([&case.1]).any(|rule| said.contains(&format!("[{}]", rule.code())));
        if read("code").trim() == "0" || !refused {
            wrong.push(format!("{}: {said}", case.0));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), PUSHES.len(), wrong.join("\n"));
    assert!(PUSHES.iter().any(|case| case.3 == By::Leaks), "gitleaks is among those who find");

    // The same git does get through with what is allowed.
    let good = "cd ~/made/0; git checkout -q agent/old; git push origin HEAD:refs/heads/agent/new";
    assert_code(&home.run(&["exec", "worker", "--", "sh", "-c", good]), 0);
    assert!(upstream.refs().contains("refs/heads/agent/new"));
    let log = stdout(&home.run(&["logs", "worker"]));
    assert!(!log.contains(OWN) && !log.contains(&pushes::key()), "{log}");
    let verified = home.run(&["audit", "verify", "worker"]);
    assert_code(&verified, 0);
    assert!(!stderr(&verified).contains(OWN));
    bottle.stop();
}
