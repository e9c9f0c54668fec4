//! Requests that no git would make.

use std::io::Write;

use super::{Bench, policy, run};
use crate::git_gate::attacks::client::{git, git_program};
use crate::git_gate::attacks::pushes::gzip;
use crate::git_gate::pkt_line;

fn post(service: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /x.git/{service} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/x-{service}-request\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").into_bytes()
}

fn line(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    pkt_line::data(&mut out, text.as_bytes());
    out
}

/// A push of one command, `rest` being after the flush.
fn push(command: &str, rest: &[u8]) -> Vec<u8> {
    post(
        "git-receive-pack",
        "",
        &[&line(&format!("{command}\0report-status side-band-64k"))[..], b"0000", rest].concat(),
    )
}

#[test]
fn what_no_git_would_send_is_refused_and_changes_nothing() {
    if git_program().is_none() {
        return;
    }
    let bench = Bench::new(&[], policy(), None);
    let before = bench.refs();
    assert!(
        bench.raw(&get("/x.git/info/refs?service=git-upload-pack")).starts_with("HTTP/1.1 200")
    );
    let up = bench.dir.path().join("up.git");
    let old = run(git(&up).args(["rev-parse", "agent/old"])).trim().to_owned();
    let main = run(git(&up).args(["rev-parse", "main"])).trim().to_owned();
    let zero = "0".repeat(40);
    let (a, b) = ("a".repeat(40), "b".repeat(40));
    let header = |count: u32| [&b"PACK\0\0\0\x02"[..], &count.to_be_bytes()].concat();
    let branch = "refs/heads/agent/new";
    let new = format!("{zero} {a} {branch}");
    let bomb = gzip(
        &[
            &line("command=ls-refs\n")[..],
            b"0001",
            &line("ref-prefix refs/heads/\n").repeat(1 << 20),
        ]
        .concat(),
    );
    for (name, bytes, code) in [
        ("a path above", get("/../x.git/info/refs?service=git-upload-pack"), "path"),
        ("an escaped path above", get("/%2e%2e/x.git/info/refs?service=git-upload-pack"), "path"),
        ("a file of the mirror", get("/x.git/config"), "service"),
        ("the dumb protocol", get("/x.git/info/refs"), "service"),
        ("a loose object", get("/x.git/objects/aa/bb"), "service"),
        ("an archive", get("/x.git/info/refs?service=git-upload-archive"), "service"),
        (
            "an unknown upstream",
            get("/y.git/info/refs?service=git-upload-pack"),
            "unknown-upstream",
        ),
        (
            "another host through the gate",
            get("http://evil.test/x.git/info/refs?service=git-upload-pack"),
            "path",
        ),
        ("another coding", post("git-upload-pack", "Content-Encoding: br\r\n", b"0000"), "coding"),
        (
            "two codings",
            post(
                "git-upload-pack",
                "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n",
                b"0000",
            ),
            "coding",
        ),
        (
            "gzip that is none",
            post("git-upload-pack", "Content-Encoding: gzip\r\n", b"hello hello hello hello"),
            "coding",
        ),
        (
            "gzip cut short",
            post("git-upload-pack", "Content-Encoding: gzip\r\n", &gzip(b"0000")[..12]),
            "coding",
        ),
        (
            "a gzip bomb",
            post("git-upload-pack", "Git-Protocol: version=2\r\nContent-Encoding: gzip\r\n", &bomb),
            "body-too-large",
        ),
        ("no pkt-line", post("git-receive-pack", "", b"zzzzhello"), "pkt-line"),
        ("a length of three", post("git-receive-pack", "", b"0003"), "pkt-line"),
        ("a separator", post("git-receive-pack", "", b"0001"), "pkt-line"),
        ("a head without an end", post("git-receive-pack", "", &line(&new)), "pkt-line"),
        ("a line longer than the body", post("git-receive-pack", "", b"fff0abc"), "pkt-line"),
        (
            "a signed push",
            post("git-receive-pack", "", &[&line("push-cert\0x")[..], b"0000"].concat()),
            "command",
        ),
        (
            "SHA-256",
            push(&format!("{} {} {branch}", "0".repeat(64), "a".repeat(64)), b""),
            "command",
        ),
        ("upper-case ids", push(&format!("{zero} {} {branch}", "A".repeat(40)), b""), "command"),
        (
            "a NUL in a name",
            post(
                "git-receive-pack",
                "",
                &[&line(&new)[..], &line(&format!("{new}2\0x"))[..], b"0000"].concat(),
            ),
            "command",
        ),
        ("a deleted branch", push(&format!("{old} {zero} refs/heads/agent/old"), b""), "delete"),
        ("a ref outside of refs", push(&format!("{zero} {a} HEAD"), b""), "ref-name"),
        ("a ref above", push(&format!("{zero} {a} refs/heads/../../config"), b""), "ref-name"),
        ("a lock", push(&format!("{zero} {a} {branch}.lock"), b""), "ref-name"),
        ("an old id that is another", push(&format!("{b} {a} refs/heads/agent/old"), b""), "stale"),
        (
            "a new branch that is there",
            push(&format!("{zero} {a} refs/heads/agent/old"), b""),
            "stale",
        ),
        ("a new id that is not in the pack", push(&new, &empty_pack()), "connectivity"),
        ("no pack at all", push(&new, b""), "pack"),
        ("a pack that is none", push(&new, b"hello, this is no pack at all, is it"), "pack"),
        ("a pack cut short", push(&new, &header(3)), "pack"),
        ("a pack of a billion objects", push(&new, &header(1_000_000_000)), "max-objects"),
        ("a pack with a wrong sum", push(&new, &[header(0), vec![0; 20]].concat()), "connectivity"),
        (
            "a branch set back with an empty pack",
            push(&format!("{old} {main} refs/heads/agent/old"), &empty_pack()),
            "force",
        ),
    ] {
        let answer = bench.raw(&bytes);
        assert!(answer.contains(&format!("[{code}]")), "{name}: {answer}");
        assert_eq!(bench.refs(), before, "{name}");
        let audit = bench.audit();
        assert!(
            audit.lines().last().is_some_and(|l| l.contains(&format!("\"rule\":\"{code}\""))),
            "{name}: {audit}"
        );
    }
    assert_eq!(std::fs::read_dir(bench.dir.path().join("state/quarantine")).unwrap().count(), 0);
    let answer = bench.raw(&post("git-receive-pack", "", b"0000"));
    assert!(answer.starts_with("HTTP/1.1 200"), "what git asks with before a large push: {answer}");
}

/// A pack of no objects: gitformat-pack(5), with its SHA-1.
fn empty_pack() -> Vec<u8> {
    use sha1::Digest;
    let head = b"PACK\0\0\0\x02\0\0\0\0";
    [&head[..], &sha1::Sha1::digest(head)].concat()
}

#[test]
fn a_connection_cut_in_the_middle_of_a_pack_leaves_nothing() {
    if git_program().is_none() {
        return;
    }
    let bench = Bench::new(&[], policy(), None);
    bench.raw(&get("/x.git/info/refs?service=git-receive-pack"));
    let before = bench.refs();
    let command = format!("{} {} refs/heads/agent/new", "0".repeat(40), "a".repeat(40));
    let body = [
        &line(&format!("{command}\0report-status side-band-64k"))[..],
        b"0000PACK\0\0\0\x02\0\0\0\x03",
    ]
    .concat();
    let head = "POST /x.git/git-receive-pack HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: 99999\r\n\r\n";
    let mut io = std::net::TcpStream::connect(("127.0.0.1", bench.port)).unwrap();
    io.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    let quarantine = bench.dir.path().join("state/quarantine");
    let held = || std::fs::read_dir(&quarantine).unwrap().count();
    super::client::until("the push is under way", || held() == 1);
    drop(io);
    super::client::until("the quarantine is gone", || held() == 0);
    super::client::until("it is in the log", || bench.audit().contains("\"rule\":\"aborted\""));
    assert_eq!(bench.refs(), before);
}
