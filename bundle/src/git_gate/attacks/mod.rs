//! Attacks, each tried twice: against git-gate, and, as a negative control, against git-gate without
//! the rules that stop it. Here the upstream is a repository on this machine, and children are not
//! confined; `tests/git_gate.rs` runs the real daemon.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{Action, GateUpstream, Push, Scan, Secret};
use bottle_scan::Scanner;

use crate::git_gate::fetch::mirror::{Mirror, private_dir};
use crate::git_gate::programs::Programs;
use crate::git_gate::push::upstream::{Upstream, UpstreamRules};
use crate::git_gate::refusal::{Checks, Rule};
use crate::git_gate::remote::Remote;
use crate::git_gate::server::Server;
use crate::git_gate::shared::{Limits, Shared};

#[path = "../../../tests/git_gate/client.rs"]
mod client;
#[path = "../../../../tests/attacks/git/pushes.rs"]
mod pushes;
mod requests;

use client::{Work, git, git_program, gitleaks, run};
use pushes::{By, CASES, Case, OWN, gzip};

/// A git-gate, its upstream, and a clone.
struct Bench {
    dir: tempfile::TempDir,
    work: Work,
    port: u16,
    _runtime: tokio::runtime::Runtime,
    _end: tokio::sync::watch::Sender<bool>,
}

fn policy() -> Push {
    let pattern = |p: &str| p.parse().unwrap();
    let mut push = Push::to(["agent/*", "main", "Main"].map(pattern).to_vec());
    push.protected = vec![pattern("main")];
    push.tags = vec![pattern("agent-*")];
    (push.max_pack, push.max_blob, push.max_objects) = (200_000, 100_000, 60);
    (push.authors, push.committers) =
        (vec!["*@agent.test".parse().unwrap()], vec!["*@agent.test".parse().unwrap()]);
    push
}

/// An upstream with the branches main and agent/old and the tag agent-1. It is copied for each test.
fn seed() -> &'static Path {
    static SEED: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    SEED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        run(git(dir.path()).args(["init", "-q", "--bare", "up.git"]));
        run(git(dir.path()).args(["clone", "-q", "up.git", "w"]));
        let work = Work { path: dir.path().join("w"), dir: tempfile::tempdir().unwrap() };
        work.commit("README", "hello\n", "first");
        work.ok(&["push", "-q", "origin", "HEAD:main"]);
        work.ok(&["checkout", "-qb", "agent/old"]);
        std::fs::write(work.path.join("paths"), "/etc/passwd").unwrap();
        work.commit("old", "old\n", "second");
        work.ok(&["tag", "agent-1"]);
        work.ok(&["push", "-q", "origin", "agent/old", "agent-1"]);
        dir
    })
    .path()
}

impl Bench {
    fn new(off: &[Rule], push: Push, leaks: Option<PathBuf>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copy = |name: &str| {
            run(std::process::Command::new("/bin/cp")
                .arg("-r")
                .arg(seed().join(name))
                .arg(dir.path().join(name)))
        };
        copy("up.git");
        copy("w");
        let at = |name: &str| dir.path().join(name);
        let exec_path = run(git(dir.path()).arg("--exec-path")).trim().into();
        private_dir(&at("home")).unwrap();
        let programs = Programs {
            git: git_program().unwrap(),
            exec_path,
            ssh: None,
            gitleaks: leaks,
            launcher: None,
            libs: vec![],
            home: at("home"),
        };
        let upstream = GateUpstream {
            name: "x".parse().unwrap(),
            url: "https://forge.test/x.git".parse().unwrap(),
            access: Default::default(),
            known_hosts: None,
            ca: None,
            connect: None,
            stale: Default::default(),
            attest: None,
            push: Some(push),
        };
        let rules = UpstreamRules::new(&upstream, ("claude", "b1"), String::new()).unwrap();
        let remote = Remote::local(&at("up.git"));
        let mirror = Mirror::new(upstream, at("state"), remote, Arc::new(programs)).unwrap();
        let upstream = Upstream::new(Arc::new(mirror), rules, None);
        let scanner = Scanner::new(&[("DEMO".parse().unwrap(), Secret::new(OWN.to_owned()))]);
        let profile = |limit| scanner.profile(&Scan { limit, ..Scan::default() }).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (end, ending) = tokio::sync::watch::channel(false);
        let shared = Shared {
            log: Arc::new(AuditWriter::open(&at("audit.jsonl"), "git-gate").unwrap()),
            objects: profile(Some(Action::Warn)),
            secrets: profile(None),
            limits: Limits {
                idle: Duration::from_secs(5),
                fetch_bytes: 1 << 20,
                ..Limits::default()
            },
            checks: Checks::without(off),
            tasks: Default::default(),
            gitleaks: Default::default(),
            requests: Arc::new(tokio::sync::Semaphore::new(8)),
            ending,
        };
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(at("s")).unwrap()
        };
        let server = Server {
            shared: Arc::new(shared),
            upstreams: [("x".parse().unwrap(), Arc::new(upstream))].into(),
        };
        runtime.spawn(Arc::new(server).serve(listener));
        let port = client::bridge(at("s")).port();
        let work = Work { path: at("w"), dir: tempfile::tempdir().unwrap() };
        work.ok(&["remote", "set-url", "origin", &format!("http://127.0.0.1:{port}/x.git")]);
        Self { dir, work, port, _runtime: runtime, _end: end }
    }

    fn refs(&self) -> String {
        run(git(&self.dir.path().join("up.git")).args(["for-each-ref"]))
    }

    fn audit(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap_or_default()
    }

    /// Sends `bytes` unchanged. Returns the whole answer.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut io = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        io.write_all(bytes).unwrap();
        io.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = Vec::new();
        let _ = io.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// Tries `case` with all checks, with those disabled that refuse it earlier, and without its own.
/// Returns what went wrong.
fn attack(case: &Case, leaks: Option<PathBuf>) -> Result<(), String> {
    let Case(name, rule, before, _, make) = case;
    let code = format!("[{}]", rule.code());
    let wrong = |what: &str, said: &str| Err(format!("{name}, {what}: {said}"));
    let mut off: Vec<Rule> = Vec::new();
    for also in [&[][..], before] {
        if off.is_empty() && !also.is_empty() {
            off = also.to_vec();
        }
        let bench = Bench::new(&off, policy(), leaks.clone());
        let args = make(&bench.work);
        let at_first = bench.refs();
        let (ok, said) = bench.work.push(&args);
        // With all checks enabled, another rule may refuse it first.
        let by_this = said.contains(&code)
            || (off.is_empty() && before.iter().any(|r| said.contains(&format!("[{}]", r.code()))));
        if ok || !by_this || bench.refs() != at_first {
            return wrong("guarded", &said);
        }
        let audit = bench.audit();
        let last = audit.lines().last().unwrap_or_default();
        if !last.contains("\"verdict\":\"deny\"")
            || !(last.contains("refs/") || last.contains("withheld"))
        {
            return wrong("audit", &audit);
        }
        if said.contains(OWN)
            || audit.contains(OWN)
            || said.contains(&pushes::key())
            || audit.contains(&pushes::key())
        {
            // The client itself prints the names of branches.
            if !name.contains("branch's name") || audit.contains(&pushes::key()) {
                return wrong("the secret is told", &format!("{said}\n{audit}"));
            }
        }
        if std::fs::read_dir(bench.dir.path().join("state/quarantine")).unwrap().count() != 0 {
            return wrong("the quarantine is left", "");
        }
        if before.is_empty() {
            break;
        }
    }
    let bench = Bench::new(&[&[*rule], *before].concat(), policy(), leaks);
    let args = make(&bench.work);
    let at_first = bench.refs();
    let (ok, said) = bench.work.push(&args);
    if !ok || bench.refs() == at_first {
        return wrong("without its rules", &said);
    }
    Ok(())
}

#[test]
fn each_push_is_refused_and_audited_and_works_without_its_rule() {
    if git_program().is_none() {
        return;
    }
    let leaks = gitleaks();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(case) = CASES.get(next.fetch_add(1, Ordering::Relaxed)) {
            let leaks = if case.3 == By::Leaks { leaks.clone() } else { None };
            if case.3 == By::Leaks && leaks.is_none() {
                continue; // gitleaks() has reported the skip
            }
            if let Err(e) = attack(case, leaks) {
                wrong.lock().unwrap().push(e);
            }
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(worker)));
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n\n"));
}

#[test]
fn an_ordinary_push_is_let_through() {
    if git_program().is_none() {
        return;
    }
    let bench = Bench::new(&[], policy(), gitleaks());
    bench.work.commit("src/main.rs", "fn main() {}\n", "work");
    bench.work.commit("link", "x", "more");
    std::os::unix::fs::symlink("../README", bench.work.path.join("src/up")).unwrap();
    bench.work.commit(
        ".gitmodules",
        "[submodule \"s\"]\n\tpath = s\n\turl = ../s.git\n",
        "a link and a submodule",
    );
    bench.work.ok(&["tag", "-a", "agent-9", "-m", "a release"]);
    let (ok, said) = bench.work.push(&[
        "--atomic",
        "origin",
        "HEAD:refs/heads/agent/new",
        "HEAD:refs/heads/agent/old",
        "agent-9",
    ]);
    assert!(ok, "{said}");
    assert!(
        bench.refs().contains("refs/tags/agent-9") && bench.refs().contains("refs/heads/agent/new")
    );
    let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/same"]);
    assert!(ok, "a branch of what is known: {said}");
}

#[test]
fn a_fingerprint_lets_one_finding_through_and_no_other() {
    if git_program().is_none() {
        return;
    }
    let token = pushes::key();
    let other = token.replace("k3J", "m4K");
    let bench = Bench::new(&[], policy(), gitleaks());
    bench.work.commit("test/data", format!("a\nkey = '{token}'\n"), "a test's key");
    let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
    assert!(!ok && said.matches("(fingerprint ").count() == 1, "{said}");
    let print = &said.split("(fingerprint ").nth(1).unwrap()[..16];
    let mut push = policy();
    push.allow.insert(print.parse().unwrap());

    let bench = Bench::new(&[], push, gitleaks());
    bench.work.commit("moved/data", format!("another line\n\nkey = '{token}'\n"), "a test's key");
    let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
    assert!(ok, "moved, it is the same: {said}");
    bench.work.commit("moved/data", format!("key = '{token}'\nkey = '{other}'\n"), "another");
    let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
    assert!(!ok && said.contains("moved/data:2"), "a second one in the same file is not: {said}");
    bench.work.ok(&["reset", "-q", "--hard", "HEAD~1"]);
    bench.work.commit(
        "moved/data",
        format!("changed\nkey = '{token}'\n"),
        "what the upstream has in the file already",
    );
    let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
    assert!(ok, "{said}");
}

/// A private key of these bytes.
fn private_key(of: &str) -> String {
    ["-----BEGIN ", "PRIVATE KEY-----\n", &of.repeat(8), "\n-----END ", "PRIVATE KEY-----\n"]
        .concat()
}

#[test]
fn what_the_upstream_has_excuses_nothing_else() {
    if git_program().is_none() {
        return;
    }
    // Once with gitleaks, once with our own rules alone: either must hold.
    for leaks in [None, gitleaks()] {
        let first = private_key("MIIEvQIBADANBgkq");
        let bench = Bench::new(&[], policy(), leaks.clone());
        bench.work.commit("key", &first, "a key");
        let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
        assert!(!ok, "{said}");
        let mut push = policy();
        for print in said.split("(fingerprint ").skip(1) {
            push.allow.insert(print[..16].parse().unwrap());
        }
        let bench = Bench::new(&[], push, leaks);
        bench.work.commit("key", &first, "an allowed key");
        let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
        assert!(ok, "{said}");
        bench.work.commit("key", private_key("h3Jx9sKq27LmWv0T"), "another one, in its place");
        let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
        assert!(!ok && said.contains("[secret]"), "{said}");

        // A file's id, pushed first, is no excuse for the file.
        bench.work.ok(&["reset", "-q", "--hard", "HEAD~1"]);
        let packed = gzip(pushes::key().as_bytes());
        let id = bench.work.feed(&["hash-object", "--stdin"], &packed);
        bench.work.commit("data", &id, "only an id");
        let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
        assert!(ok, "{said}");
        bench.work.commit("data", &packed, "what it names");
        let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
        assert!(!ok && said.contains("[secret]"), "{said}");

        // Nor is a lock file for the same content elsewhere.
        bench.work.ok(&["reset", "-q", "--hard", "HEAD~1"]);
        std::fs::write(bench.work.path.join("Cargo.lock"), pushes::generic()).unwrap();
        bench.work.commit("src.txt", pushes::generic(), "twice");
        let (ok, said) = bench.work.push(&["origin", "HEAD:refs/heads/agent/new"]);
        assert!(!ok || said.contains("warning"), "{said}");
    }
}

#[test]
fn the_first_clone_is_passed_on_while_the_mirror_takes_it_in() {
    if git_program().is_none() {
        return;
    }
    let one_try = || {
        let bench = Bench::new(&[], policy(), None);
        // Enough that git takes a while, and of no pattern.
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        });
        std::fs::write(bench.work.path.join("noise"), noise.take(32 << 20).collect::<Vec<u8>>())
            .unwrap();
        let up = bench.dir.path().join("up.git");
        bench.work.ok(&["add", "noise"]);
        bench.work.ok(&["commit", "-qm", "noise"]);
        bench.work.ok(&["tag", "-a", "big", "-m", "big"]);
        bench.work.ok(&["push", "-q", up.to_str().unwrap(), "HEAD:refs/heads/agent/big", "big"]);
        let url = format!("http://127.0.0.1:{}/x.git", bench.port);
        let clone = |name: &str, args: &[&str]| {
            let dir = bench.dir.path();
            run(git(dir).args(["clone", "-q"]).args(args).arg(&url).arg(name));
            run(git(&dir.join(name)).args(["fsck", "--connectivity-only"]));
            run(git(&dir.join(name)).args(["ls-remote", "--symref", "."]))
        };
        let direct = run(git(&up).args(["ls-remote", "--symref", "."]));
        std::thread::scope(|scope| {
            for (n, args) in [
                &["--mirror"][..],
                &["--mirror"],
                &["--depth=1"],
                &["--bare", "--single-branch"],
                &["-c", "protocol.version=0"],
            ]
            .into_iter()
            .enumerate()
            {
                let (clone, direct) = (&clone, &direct);
                scope.spawn(move || {
                    let has = clone(&format!("c{n}"), args);
                    assert!(args != ["--mirror"] || has == *direct, "{has}\n{direct}");
                });
            }
        });
        let audit = bench.audit();
        assert!(!audit.contains("\"deny\"") && !audit.contains("\"rule\""), "{audit}");
        audit.contains("passed on as it arrived")
    };
    // A machine that is busy elsewhere may have the mirror whole before a client asks.
    assert!((0..5).any(|_| one_try()));
}
