//! The real `bottle-bundle git-gate` between real git clients and a real upstream behind sshd.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "gate/world.rs"]
mod world;

use std::fs;

use bottle_policy::audit::verify;
use world::{Gate, Upstream, run};

fn nothing() -> serde_json::Value {
    serde_json::json!({})
}

/// A key of a form that scanners know, made here so that no file of ours holds one.
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

    // What somebody else pushes is there at the next fetch.
    let other = upstream.dir.path().join("x-work");
    fs::write(other.join("new"), "n").unwrap();
    run(world::git(&other).args(["add", "."]));
    run(world::git(&other).args(["commit", "-qm", "other"]));
    run(world::git(&other).args(["push", "-q"]).arg(upstream.repo("x")).arg("main"));
    work.ok(&["pull", "-q", "--no-rebase", "origin", "main"]);
    assert!(work.path.join("new").exists());

    let audit = gate.audit();
    assert!(verify(audit.as_bytes()).unwrap().lines > 6);
    assert!(audit.contains(&format!("refs/heads/agent/one {} {}", "0".repeat(12), &new[..12])), "{audit}");
    assert_eq!(gate.quarantine("x"), 0);
}

#[test]
fn a_planted_key_is_refused_with_its_place_and_the_upstream_is_untouched() {
    let Some(upstream) = Upstream::start() else { return };
    let gate = Gate::start(&[upstream.policy("x")], &nothing());
    let work = gate.clone("x");
    let before = upstream.refs("x");
    work.ok(&["checkout", "-qb", "agent/leak"]);
    work.commit("src/a.rs", format!("fn a() {{}}\nlet k = \"{}\"; // gitleaks:allow\n", github_token()), "leak");
    let (ok, said) = work.push(&["origin", "agent/leak"]);
    assert!(!ok && said.contains("src/a.rs:2") && said.contains("fingerprint") && !said.contains(&github_token()), "{said}");
    assert_eq!(upstream.refs("x"), before);
    assert!(!gate.audit().contains(&github_token()));
    assert_eq!(gate.quarantine("x"), 0);
}
