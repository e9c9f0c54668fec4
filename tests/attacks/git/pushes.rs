//! Pushes that must not get through. Each is made by a real git in a clone whose branch `agent/old`
//! is at the upstream. The policy allows the branches `agent/*`, `main` and `Main`, protects
//! `main`, allows tags `agent-*`, addresses at `agent.test`, packs of 200 KB, objects of 100 KB,
//! and 60 objects.

use super::{Rule, Work};

/// Name, the rule that stops it, rules that would stop it earlier, who finds it, and a function
/// that prepares it and returns the arguments of `git push`. Without all of these rules it reaches
/// the upstream.
pub struct Case(
    pub &'static str,
    pub Rule,
    pub &'static [Rule],
    pub By,
    pub fn(&Work) -> Vec<&'static str>,
);

/// Who finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// git-gate itself.
    Gate,
    /// Only gitleaks.
    Leaks,
}
use By::{Gate, Leaks};

/// A provider's key, in pieces, so that scanners do not report this file.
pub fn key() -> String {
    ["ghp", "_", "k3Jd92LmQx7VbT0sYw5RzN8fPc1HgA4uE6oX"].concat()
}

/// Text that only gitleaks reports as a credential.
pub fn generic() -> String {
    ["api_", "key = '", "q8Rk2ZmT7vXp4LwN9sBd3FhJ6yGc1A5u", "'\n"].concat()
}

/// One of the bundle's secrets.
pub const OWN: &str = "tok-5d0c-planted-in-the-gate";

fn own() -> &'static [u8] {
    OWN.as_bytes()
}

/// `text` as a gzip file.
pub fn gzip(text: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// `text` as a zip file with one deflated member.
fn zip(text: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    let data = encoder.finish().unwrap();
    let len = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&b"PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0"[..], &len, &len, &[1, 0, 0, 0], b"a", &data]
        .concat()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32).to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

fn file(work: &Work, name: &str, content: impl AsRef<[u8]>) -> Vec<&'static str> {
    work.commit(name, content, "work");
    HERE.to_vec()
}

const HERE: &[&str] = &["origin", "HEAD:refs/heads/agent/new"];

/// A commit whose tree has one entry that no checkout creates.
fn entry(work: &Work, mode: &str, name: &str, content: &[u8]) -> Vec<&'static str> {
    let blob = work.feed(&["hash-object", "-w", "--stdin"], content);
    let mut tree = format!("{mode} {name}\0").into_bytes();
    tree.extend((0..40).step_by(2).map(|i| u8::from_str_radix(&blob[i..i + 2], 16).unwrap()));
    commit_tree(work, &tree)
}

/// A commit whose tree has one directory with this name.
fn dir(work: &Work, name: &str) -> Vec<&'static str> {
    let blob = work.feed(&["hash-object", "-w", "--stdin"], b"[core]\n");
    let inner = work.feed(&["mktree"], format!("100644 blob {blob}\tconfig\n").as_bytes());
    let mut tree = format!("40000 {name}\0").into_bytes();
    tree.extend((0..40).step_by(2).map(|i| u8::from_str_radix(&inner[i..i + 2], 16).unwrap()));
    commit_tree(work, &tree)
}

fn commit_tree(work: &Work, tree: &[u8]) -> Vec<&'static str> {
    let tree = work.feed(&["hash-object", "-t", "tree", "-w", "--stdin", "--literally"], tree);
    let commit = work.feed(&["commit-tree", "-p", "HEAD", &tree], b"odd tree\n");
    work.ok(&["update-ref", "HEAD", &commit]);
    HERE.to_vec()
}

/// A commit object with this text after its tree and parent.
fn commit_object(work: &Work, rest: &str) -> Vec<&'static str> {
    let tree = work.ok(&["rev-parse", "HEAD^{tree}"]);
    let parent = work.ok(&["rev-parse", "HEAD"]);
    let text = format!("tree {tree}parent {parent}{rest}");
    let commit = work
        .feed(&["hash-object", "-t", "commit", "-w", "--stdin", "--literally"], text.as_bytes());
    work.ok(&["update-ref", "HEAD", &commit]);
    HERE.to_vec()
}

/// A merge commit with content that neither parent has.
fn evil_merge(work: &Work, text: &str) -> Vec<&'static str> {
    work.ok(&["checkout", "-qb", "side", "HEAD"]);
    work.commit("side", "s", "side");
    work.ok(&["checkout", "-q", "agent/old"]);
    work.commit("here", "h", "here");
    work.ok(&["merge", "-q", "--no-commit", "--no-ff", "side"]);
    work.commit("evil", text, "merge");
    HERE.to_vec()
}

fn tag(work: &Work, message: &str) -> Vec<&'static str> {
    work.ok(&["tag", "-a", "agent-2", "-m", message]);
    vec!["origin", "agent-2"]
}

fn as_author(work: &Work, name: &str, email: &str) -> Vec<&'static str> {
    work.commit("a", "a", "work");
    work.ok(&["commit", "-q", "--amend", "--author", &format!("{name} <{email}>"), "-m", "work"]);
    HERE.to_vec()
}

const ID: &str =
    "author A <a@agent.test> 1700000000 +0000\ncommitter A <a@agent.test> 1700000000 +0000\n";

pub const CASES: &[Case] = &[
    // refs
    Case("a branch that no pattern allows", Rule::Branch, &[], Gate, |w| {
        w.commit("a", "a", "work");
        vec!["origin", "HEAD:refs/heads/other"]
    }),
    Case("a branch that only begins like an allowed one", Rule::Branch, &[], Gate, |w| {
        w.commit("a", "a", "work");
        vec!["origin", "HEAD:refs/heads/agents"]
    }),
    Case("a protected branch", Rule::Protected, &[], Gate, |w| {
        w.commit("a", "a", "work");
        vec!["origin", "HEAD:refs/heads/main"]
    }),
    Case("a protected branch in another case", Rule::Protected, &[], Gate, |w| {
        w.commit("a", "a", "work");
        vec!["origin", "HEAD:refs/heads/Main"]
    }),
    Case("a forced push", Rule::Force, &[], Gate, |w| {
        w.ok(&["commit", "-q", "--amend", "-m", "rewritten"]);
        vec!["-f", "origin", "HEAD:refs/heads/agent/old"]
    }),
    Case("a branch set back", Rule::Force, &[], Gate, |_| {
        vec!["-f", "origin", "HEAD~1:refs/heads/agent/old"]
    }),
    Case("a tag that no pattern allows", Rule::Tag, &[], Gate, |w| {
        w.ok(&["tag", "v1"]);
        vec!["origin", "v1"]
    }),
    Case("a tag that is moved", Rule::TagMove, &[], Gate, |w| {
        w.commit("a", "a", "work");
        w.ok(&["tag", "-f", "agent-1"]);
        vec!["-f", "origin", "agent-1"]
    }),
    Case("notes", Rule::RefKind, &[], Gate, |w| {
        w.ok(&["notes", "add", "-m", "x"]);
        vec!["origin", "refs/notes/commits"]
    }),
    Case("a ref that forges review", Rule::RefKind, &[], Gate, |w| {
        w.commit("a", "a", "work");
        vec!["origin", "HEAD:refs/pull/1/head"]
    }),
    Case("a ref's name that a shell runs", Rule::RefName, &[Rule::Branch], Gate, |w| {
        w.commit("a", "a", "work");
        vec!["origin", "HEAD:refs/heads/agent/$(id)"]
    }),
    Case(
        "a ref's name that a terminal shows backwards",
        Rule::RefName,
        &[Rule::Branch],
        Gate,
        |w| {
            w.commit("a", "a", "work");
            vec!["origin", "HEAD:refs/heads/agent/\u{202e}niam"]
        },
    ),
    Case("a tag of a file", Rule::Target, &[], Gate, |w| {
        let blob = w.feed(&["hash-object", "-w", "--stdin"], b"just a file");
        w.ok(&["tag", "agent-2", &blob]);
        vec!["origin", "agent-2"]
    }),
    Case("one good ref and one bad: neither", Rule::Branch, &[], Gate, |w| {
        w.commit("a", "a", "work");
        vec!["origin", "HEAD:refs/heads/agent/new", "HEAD:refs/heads/other"]
    }),
    // sizes
    Case("a pack that is too large", Rule::MaxPack, &[Rule::MaxBlob], Gate, |w| {
        file(w, "noise", noise(300_000))
    }),
    Case("a file that is small only while it is packed", Rule::MaxBlob, &[], Gate, |w| {
        file(w, "zeros", vec![b'0'; 3_000_000])
    }),
    Case("too many objects", Rule::MaxObjects, &[], Gate, |w| {
        (0..70).for_each(|n| std::fs::write(w.path.join(format!("f{n}")), format!("{n}")).unwrap());
        file(w, "last", "last")
    }),
    // who
    Case("an author of somewhere else", Rule::Author, &[], Gate, |w| {
        as_author(w, "A", "boss@corp.test")
    }),
    Case("an author who only looks right", Rule::Author, &[], Gate, |w| {
        as_author(w, "a@agent.test", "boss@corp.test")
    }),
    Case("an author at a longer domain", Rule::Author, &[], Gate, |w| {
        as_author(w, "A", "a@agent.test.evil")
    }),
    Case("a committer of somewhere else", Rule::Committer, &[], Gate, |w| {
        commit_object(
            w,
            "author A <a@agent.test> 1700000000 +0000\ncommitter B <boss@corp.test> 1700000000 +0000\n\nwork\n",
        )
    }),
    Case("a tagger of somewhere else", Rule::Committer, &[], Gate, |w| {
        let head = w.ok(&["rev-parse", "HEAD"]);
        let text = format!(
            "object {head}type commit\ntag agent-2\ntagger B <boss@corp.test> 1700000000 +0000\n\nx\n"
        );
        let tag = w.feed(&["mktag"], text.as_bytes());
        w.ok(&["update-ref", "refs/tags/agent-2", &tag]);
        vec!["origin", "agent-2"]
    }),
    // a provider's key
    Case("a key in a file", Rule::Secret, &[], Gate, |w| file(w, "a", key())),
    Case("a key with an inline comment that excuses it", Rule::Secret, &[], Gate, |w| {
        file(w, "a", format!("k = '{}' # gitleaks:allow\n", key()))
    }),
    Case("a key and a configuration that allows it", Rule::Secret, &[], Gate, |w| {
        std::fs::write(w.path.join(".gitleaks.toml"), "[allowlist]\nregexes = ['.*']\n").unwrap();
        std::fs::write(w.path.join(".gitleaksignore"), "a:github-pat:1\n").unwrap();
        file(w, "a", key())
    }),
    Case("a key that the next commit takes away", Rule::Secret, &[], Gate, |w| {
        w.commit("a", key(), "oops");
        file(w, "a", "gone")
    }),
    Case("a key in a merge alone", Rule::Secret, &[], Gate, |w| evil_merge(w, &key())),
    Case("a key in a commit's message", Rule::Secret, &[], Gate, |w| {
        w.commit("a", "a", &key());
        HERE.to_vec()
    }),
    Case("a key in a tag's message", Rule::Secret, &[], Gate, |w| tag(w, &key())),
    Case("a key as the author's name", Rule::Secret, &[], Gate, |w| {
        as_author(w, &key(), "a@agent.test")
    }),
    Case("a key in a header of a commit that nobody reads", Rule::Secret, &[], Gate, |w| {
        commit_object(w, &format!("{ID}x-note {}\n\nwork\n", key()))
    }),
    Case("a key between NULs", Rule::Secret, &[], Gate, |w| {
        file(w, "a.bin", [b"\x7fELF\0\0\0", key().as_bytes(), b"\0\0"].concat())
    }),
    Case("a key in a gzip file", Rule::Secret, &[], Gate, |w| {
        file(w, "a.gz", gzip(key().as_bytes()))
    }),
    Case("a key in a zip file", Rule::Secret, &[], Gate, |w| {
        file(w, "a.zip", zip(key().as_bytes()))
    }),
    Case("a key as a file's name", Rule::Secret, &[], Gate, |w| file(w, &key(), "a")),
    Case("a key as a directory's name", Rule::Secret, &[], Gate, |w| {
        file(w, &format!("{}/a", key()), "a")
    }),
    Case("a key as a branch's name", Rule::Secret, &[], Gate, |w| {
        w.commit("a", "a", "work");
        vec!["origin", Box::leak(format!("HEAD:refs/heads/agent/{}", key()).into_boxed_str())]
    }),
    Case("a key as where a link leads", Rule::Secret, &[], Gate, |w| {
        entry(w, "120000", "link", key().as_bytes())
    }),
    Case("a key far into a file, on the border of two pieces", Rule::Secret, &[], Gate, |w| {
        file(
            w,
            "a",
            ["0123456 ".repeat(8191).as_bytes(), b" ", key().as_bytes(), &b" x".repeat(9000)]
                .concat(),
        )
    }),
    Case("a private key", Rule::Secret, &[], Gate, |w| {
        let body =
            "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n".repeat(4);
        file(
            w,
            "id",
            [
                "-----BEGIN OPENSSH ",
                "PRIVATE KEY-----\n",
                &body,
                "-----END OPENSSH PRIVATE ",
                "KEY-----\n",
            ]
            .concat(),
        )
    }),
    // the bundle's own secret, in every dress
    Case("the bundle's secret", Rule::Secret, &[], Gate, |w| file(w, "a", own())),
    Case("the bundle's secret in base64", Rule::Secret, &[], Gate, |w| {
        use base64::Engine as _;
        file(w, "a", base64::engine::general_purpose::STANDARD.encode([b"xy", own()].concat()))
    }),
    Case("the bundle's secret in hex", Rule::Secret, &[], Gate, |w| {
        file(w, "a", hex::encode(own()))
    }),
    Case("the bundle's secret backwards", Rule::Secret, &[], Gate, |w| {
        file(w, "a", own().iter().rev().copied().collect::<Vec<u8>>())
    }),
    Case("the bundle's secret in UTF-16", Rule::Secret, &[], Gate, |w| {
        file(w, "a", own().iter().flat_map(|b| [*b, 0]).collect::<Vec<u8>>())
    }),
    Case("the bundle's secret percent-encoded in a message", Rule::Secret, &[], Gate, |w| {
        w.commit("a", "a", &own().iter().fold(String::new(), |all, b| format!("{all}%{b:02x}")));
        HERE.to_vec()
    }),
    Case("the bundle's secret in a gzip file", Rule::Secret, &[], Gate, |w| {
        file(w, "a", gzip(own()))
    }),
    // what gitleaks alone knows, past its own gaps
    Case("gitleaks: a file", Rule::Secret, &[], Leaks, |w| file(w, "a", generic())),
    Case("gitleaks: an inline comment", Rule::Secret, &[], Leaks, |w| {
        file(w, "a", generic().trim_end().to_owned() + " # gitleaks:allow\n")
    }),
    Case("gitleaks: a merge alone", Rule::Secret, &[], Leaks, |w| evil_merge(w, &generic())),
    Case("gitleaks: a commit's message", Rule::Secret, &[], Leaks, |w| {
        w.commit("a", "a", &generic());
        HERE.to_vec()
    }),
    Case("gitleaks: a tag's message", Rule::Secret, &[], Leaks, |w| tag(w, &generic())),
    Case("gitleaks: a gzip file", Rule::Secret, &[], Leaks, |w| {
        file(w, "a.gz", gzip(generic().as_bytes()))
    }),
    Case("gitleaks: a file with NULs", Rule::Secret, &[], Leaks, |w| {
        file(w, "a", ["\0\0\0\n", &generic(), "\0"].concat())
    }),
    // trees
    Case("a directory .GIT", Rule::DotGit, &[Rule::Pack], Gate, |w| dir(w, ".GIT")),
    Case("a directory git~1", Rule::DotGit, &[Rule::Pack], Gate, |w| dir(w, "git~1")),
    Case(
        "a directory .git with a joiner that HFS+ ignores",
        Rule::DotGit,
        &[Rule::Pack],
        Gate,
        |w| dir(w, ".g\u{200c}it"),
    ),
    Case("a directory .git. as Windows reads it", Rule::DotGit, &[Rule::Pack], Gate, |w| {
        dir(w, ".git. ")
    }),
    Case("a file ..\\.git\\config as Windows reads it", Rule::DotGit, &[Rule::Pack], Gate, |w| {
        entry(w, "100644", "..\\.git\\config", b"x")
    }),
    Case("a directory ..", Rule::DotGit, &[Rule::Pack], Gate, |w| dir(w, "..")),
    Case("a path that talks to the terminal", Rule::PathText, &[Rule::Pack], Gate, |w| {
        entry(w, "100644", "a\x1b[2Jb", b"x")
    }),
    Case("a link to /root", Rule::Symlink, &[], Gate, |w| {
        entry(w, "120000", "link", b"/root/.ssh/id_ed25519")
    }),
    Case("a file that the upstream has, as a link", Rule::Symlink, &[], Gate, |w| {
        entry(w, "120000", "link", b"/etc/passwd")
    }),
    Case("a link above the tree", Rule::Symlink, &[], Gate, |w| {
        entry(w, "120000", "link", b"a/../../x")
    }),
    Case("a link into .git", Rule::Symlink, &[], Gate, |w| {
        entry(w, "120000", "link", b".git/hooks")
    }),
    Case("a link in place of .gitmodules", Rule::Symlink, &[Rule::Pack], Gate, |w| {
        entry(w, "120000", ".gitmodules", b"other")
    }),
    Case("a link in place of .gitattributes", Rule::Symlink, &[Rule::Pack], Gate, |w| {
        entry(w, "120000", ".gitattributes", b"other")
    }),
    Case("a submodule with a password", Rule::Submodule, &[], Gate, |w| {
        file(
            w,
            ".gitmodules",
            "[submodule \"s\"]\n\tpath = s\n\turl = https://me:hunter2@h.test/s\n",
        )
    }),
    Case("a submodule with a password, all in one line", Rule::Submodule, &[], Gate, |w| {
        file(
            w,
            ".gitmodules",
            "[submodule \"s\"] path = s\n[submodule \"s\"] url = ht\\\ntps://hunter2@h.test/s\n",
        )
    }),
    Case("a submodule that runs a command", Rule::Submodule, &[Rule::Pack], Gate, |w| {
        file(w, ".gitmodules", "[submodule \"s\"]\n\tpath = s\n\turl = ext::sh -c id\n")
    }),
    Case("a submodule whose update is a command", Rule::Submodule, &[Rule::Pack], Gate, |w| {
        file(w, ".gitmodules", "[submodule \"s\"]\n\tpath = s\n\turl = ../s\n\tupdate = !id\n")
    }),
    // objects
    Case("a commit without an author", Rule::Pack, &[], Gate, |w| {
        commit_object(w, "committer A <a@agent.test> 1700000000 +0000\n\nwork\n")
    }),
    Case("a tree with the same name twice", Rule::Pack, &[], Gate, |w| {
        let blob = w.feed(&["hash-object", "-w", "--stdin"], b"x");
        let id: Vec<u8> =
            (0..40).step_by(2).map(|i| u8::from_str_radix(&blob[i..i + 2], 16).unwrap()).collect();
        commit_tree(w, &[b"100644 a\0", &id[..], b"100644 a\0", &id[..]].concat())
    }),
];
