//! Work that a hostile guest could hand over, none of which gets through. Each case runs twice: with
//! all checks, where the attack must fail, and as a negative control with one check disabled, where
//! it must work, so that no case passes for another reason.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::names;
use super::*;

/// A raw entry of a tar: kind, name, link, content.
type Raw<'a> = (tar::EntryType, &'a str, &'a str, &'a [u8]);
const FILE: tar::EntryType = tar::EntryType::Regular;
const LINK: tar::EntryType = tar::EntryType::Symlink;

/// A tar whose names are written raw, as no honest program would.
fn tar(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (kind, path, link, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o6755);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        out.append(&header, *data).unwrap();
    }
    out.into_inner().unwrap()
}

/// A home with a project, and beside it what no bottle may touch.
struct World {
    home: TempDir,
    baseline: Baseline,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let project = home.path().join("project");
        for dir in ["project/src", "project/.git/hooks", "project/agents", "outside"] {
            fs::create_dir_all(home.path().join(dir)).unwrap();
        }
        fs::write(project.join("src/main.rs"), "main").unwrap();
        fs::write(project.join("bottle.toml"), "version = 1").unwrap();
        fs::write(project.join(".git/config"), "git's").unwrap();
        fs::write(home.path().join("outside/secret"), "operator's").unwrap();
        fs::write(home.path().join(".bashrc"), "operator's").unwrap();
        let mut baseline = Baseline::new(&project);
        for name in ["src/main.rs", "bottle.toml"] {
            baseline.files.insert(
                name.to_owned(),
                super::changes::file_state(&project.join(name)).unwrap().unwrap(),
            );
        }
        Self { home, baseline }
    }

    fn project(&self) -> PathBuf {
        self.home.path().join("project")
    }

    /// All that there is, by name, links not followed.
    fn state(&self) -> BTreeMap<PathBuf, String> {
        fn walk(dir: &Path, out: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                if meta.is_dir() {
                    walk(&path, out);
                } else if meta.is_symlink() {
                    out.insert(
                        path.clone(),
                        format!("-> {}", fs::read_link(&path).unwrap().display()),
                    );
                } else {
                    out.insert(
                        path.clone(),
                        String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned(),
                    );
                }
            }
        }
        let mut out = BTreeMap::new();
        walk(self.home.path(), &mut out);
        out
    }

    /// Pulls what `entries` and the untouched rest of the project would be.
    fn pull(&mut self, entries: &[Raw<'_>], checks: WorkspaceChecks) -> Result<Outcome, String> {
        let taken = tempfile::tempdir().unwrap();
        let mut all: Vec<Raw<'_>> =
            vec![(FILE, "src/main.rs", "", b"main"), (FILE, "bottle.toml", "", b"version = 1")];
        all.retain(|(_, name, ..)| {
            !entries
                .iter()
                .any(|(_, other, ..)| other == name || name.starts_with(&format!("{other}/")))
        });
        // Modes are the host's to give; the baseline's are those of its own files.
        all.extend(entries);
        let mut bytes = tar(&all);
        for name in ["src/main.rs", "bottle.toml"] {
            plain_mode(&mut bytes, name);
        }
        let refused = unpack(bytes.as_slice(), taken.path(), checks).map_err(|e| e.to_string())?;
        let mut found =
            changes(taken.path(), &self.baseline, refused, checks).map_err(|e| e.to_string())?;
        found.without_manifest(Path::new(""), checks);
        apply(&found, taken.path(), &mut self.baseline, checks).map_err(|e| e.to_string())
    }
}

/// The header of the file `name` with mode 0644.
fn plain_mode(tar: &mut [u8], name: &str) {
    for block in tar.chunks_exact_mut(512) {
        if block.starts_with(name.as_bytes())
            && block[name.len()] == 0
            && &block[257..262] == b"ustar"
        {
            let header = tar::Header::from_byte_slice(block).clone();
            let mut header = header;
            header.set_mode(0o644);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

/// What the host has done meanwhile.
type Before = fn(&Path);
fn nothing(_: &Path) {}

/// An attack, the guard that refuses it, and what it would leave, relative to the home: content, or
/// `-> target`.
struct Attack {
    name: &'static str,
    guard: WorkspaceChecks,
    before: Before,
    entries: &'static [Raw<'static>],
    leaves: (&'static str, &'static str),
}

const fn names_off() -> WorkspaceChecks {
    WorkspaceChecks { names: false, ..WorkspaceChecks::ALL }
}
const fn links_off() -> WorkspaceChecks {
    WorkspaceChecks { links: false, ..WorkspaceChecks::ALL }
}
const fn follow_off() -> WorkspaceChecks {
    WorkspaceChecks { no_follow: false, ..WorkspaceChecks::ALL }
}
const fn conflicts_off() -> WorkspaceChecks {
    WorkspaceChecks { conflicts: false, ..WorkspaceChecks::ALL }
}
const fn manifest_off() -> WorkspaceChecks {
    WorkspaceChecks { manifest: false, ..WorkspaceChecks::ALL }
}

macro_rules! named {
    ($name:literal, $path:literal) => {
        Attack {
            name: $name,
            guard: names_off(),
            before: nothing,
            entries: &[(FILE, $path, "", b"evil")],
            leaves: (concat!("project/", $path), "evil"),
        }
    };
}
macro_rules! linked {
    ($name:literal, $path:literal, $target:literal) => {
        Attack {
            name: $name,
            guard: links_off(),
            before: nothing,
            entries: &[(LINK, $path, $target, b"")],
            leaves: (concat!("project/", $path), concat!("-> ", $target)),
        }
    };
}
macro_rules! manifest {
    ($name:literal, $path:literal) => {
        Attack {
            name: $name,
            guard: manifest_off(),
            before: nothing,
            entries: &[(FILE, $path, "", b"evil")],
            leaves: (concat!("project/", $path), "evil"),
        }
    };
}

const ATTACKS: &[Attack] = &[
    // Git's own files: a hook or a setting is a program that the operator runs next.
    named!("a hook", ".git/hooks/post-checkout"),
    named!("git's settings", ".git/config.worktree"),
    named!("git's settings of a new repository", "sub/.git/config"),
    named!("a repository as a file", "sub/.git"),
    named!("git in capitals", ".GIT/hooks/pre-commit"),
    named!("git in mixed case", "sub/.gIt/config"),
    named!("git by its short name", "git~1/config"),
    named!("git by another short name", "GIT~2/config"),
    named!("git with a trailing dot", ".git./config"),
    named!("git with a trailing blank", ".git /config"),
    named!("git with both", ".git. ./config"),
    named!("git with a stream", ".git::$INDEX_ALLOCATION/config"),
    named!("git with a stream's name", ".git:x/config"),
    named!("git behind a backslash", "a\\.git\\config"),
    named!("git with an invisible character", ".g\u{200c}it/config"),
    named!("git with a mark at its end", ".git\u{feff}/config"),
    named!("git with a direction", ".gi\u{202e}t/config"),
    // Names that show as something else than they are.
    named!("an escape sequence", "a\u{1b}[2Jb"),
    named!("a line break", "a\nb"),
    named!("a carriage return", "harmless\revil"),
    named!("a bell", "a\u{7}"),
    named!("a delete", "a\u{7f}b"),
    named!("text that runs backwards", "gpj.\u{202e}exe"),
    named!("an isolate", "a\u{2066}b"),
    // Links through which something else is read or written later.
    linked!("a link to a file of the host", "l", "/etc/passwd"),
    linked!("a link to the home", "l", "../../.bashrc"),
    linked!("a link above the project", "l", ".."),
    linked!("a link beside the project", "l", "../outside/secret"),
    linked!("a link from below", "src/l", "../../outside"),
    linked!("a link that goes down and up", "l", "src/../../outside"),
    linked!("a link to git's hooks", "l", ".git/hooks"),
    linked!("a link to git from below", "src/l", "../.git/config"),
    linked!("a link to git in capitals", "l", ".GIT"),
    linked!("a link to a process", "l", "/proc/self/environ"),
    linked!("a link in the place of a file", "src/main.rs", "/etc/shadow"),
    // Links that the operator has, which the guest cannot see but can name.
    Attack {
        name: "a directory that is a link of the host",
        guard: follow_off(),
        before: |project| symlink("../outside", project.join("out")).unwrap(),
        entries: &[(FILE, "out/planted", "", b"evil")],
        leaves: ("outside/planted", "evil"),
    },
    Attack {
        name: "a directory that has become a link of the host",
        guard: follow_off(),
        before: |project| {
            fs::remove_dir_all(project.join("src")).unwrap();
            symlink("../outside", project.join("src")).unwrap();
        },
        entries: &[(FILE, "src/main.rs", "", b"main"), (FILE, "src/new", "", b"evil")],
        leaves: ("outside/new", "evil"),
    },
    Attack {
        name: "a link of the host deep in a path",
        guard: follow_off(),
        before: |project| {
            fs::create_dir(project.join("a")).unwrap();
            symlink("../../outside", project.join("a/b")).unwrap();
        },
        entries: &[(FILE, "a/b/c/planted", "", b"evil")],
        leaves: ("outside/c/planted", "evil"),
    },
    Attack {
        name: "a link of the host to git's hooks",
        guard: follow_off(),
        before: |project| symlink(".git/hooks", project.join("hooks")).unwrap(),
        entries: &[(FILE, "hooks/pre-push", "", b"evil")],
        leaves: ("project/.git/hooks/pre-push", "evil"),
    },
    // Work of the operator's that would be gone.
    Attack {
        name: "over what the operator changed",
        guard: conflicts_off(),
        before: |project| fs::write(project.join("src/main.rs"), "operator's").unwrap(),
        entries: &[(FILE, "src/main.rs", "", b"evil")],
        leaves: ("project/src/main.rs", "evil"),
    },
    Attack {
        name: "over what the operator made",
        guard: conflicts_off(),
        before: |project| fs::write(project.join("new"), "operator's").unwrap(),
        entries: &[(FILE, "new", "", b"evil")],
        leaves: ("project/new", "evil"),
    },
    Attack {
        name: "over what was ignored and never went in",
        guard: conflicts_off(),
        before: |project| fs::write(project.join(".env"), "operator's").unwrap(),
        entries: &[(FILE, ".env", "", b"evil")],
        leaves: ("project/.env", "evil"),
    },
    Attack {
        name: "over a link that the operator made",
        guard: conflicts_off(),
        before: |project| symlink("src/main.rs", project.join("new")).unwrap(),
        entries: &[(FILE, "new", "", b"evil")],
        leaves: ("project/new", "evil"),
    },
    Attack {
        name: "back, after the operator deleted it",
        guard: conflicts_off(),
        before: |project| fs::remove_file(project.join("src/main.rs")).unwrap(),
        entries: &[(FILE, "src/main.rs", "", b"evil")],
        leaves: ("project/src/main.rs", "evil"),
    },
    // What the next bottle may do, and what its launch runs on the host.
    manifest!("the manifest", "bottle.toml"),
    manifest!("a manifest in capitals", "Bottle.toml"),
    manifest!("an agent", "agents/claude.md"),
    manifest!("an agent in capitals", "AGENTS/claude.md"),
    manifest!("a skill", "skills/review/SKILL.md"),
];

#[test]
fn no_attack_gets_past_and_each_would_without_its_guard() {
    assert!(ATTACKS.len() >= 40, "{}", ATTACKS.len());
    for attack in ATTACKS {
        let mut world = World::new();
        (attack.before)(&world.project());
        let before = world.state();
        let outcome = world.pull(attack.entries, WorkspaceChecks::ALL);
        assert_eq!(world.state(), before, "{}: {outcome:?}", attack.name);

        let mut world = World::new();
        (attack.before)(&world.project());
        let outcome = world.pull(attack.entries, attack.guard);
        let (path, content) = attack.leaves;
        let left = world.state().get(&world.home.path().join(path)).cloned();
        assert_eq!(
            left.as_deref(),
            Some(content),
            "{}: does not work without its guard, so the case shows nothing: {outcome:?}",
            attack.name
        );
    }
}

/// These end in the unpacking, which has one guard for all, tested beside it: here it must only be
/// that nothing arrives.
#[test]
fn what_a_tar_can_do_by_itself_leaves_nothing() {
    let kinds = [
        tar::EntryType::Char,
        tar::EntryType::Block,
        tar::EntryType::Fifo,
        tar::EntryType::Link,
        tar::EntryType::GNUSparse,
    ];
    let mut cases: Vec<Vec<Raw<'_>>> =
        kinds.iter().map(|kind| vec![(*kind, "x", "src/main.rs", &b""[..])]).collect();
    cases.push(vec![(tar::EntryType::Link, "x", "/etc/passwd", b"")]);
    for name in
        ["../outside/planted", "/tmp/bottle-planted", "src/../../outside/planted", "..", "./../x"]
    {
        cases.push(vec![(FILE, name, "", b"evil")]);
    }
    cases.push(vec![(LINK, "d", "src", b""), (FILE, "d/planted", "", b"evil")]);
    for case in cases {
        let mut world = World::new();
        let before = world.state();
        let outcome = world.pull(&case, WorkspaceChecks::ALL);
        let mut after = world.state();
        after.remove(&world.project().join("d"));
        assert_eq!(after, before, "{case:?}: {outcome:?}");
    }
}

#[test]
fn honest_work_arrives_whole_without_a_guests_modes() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::new();
    let entries: [Raw<'_>; 4] = [
        (FILE, "src/main.rs", "", b"better"),
        (FILE, "new/deep/file", "", b"new"),
        (LINK, "l", "src/main.rs", b""),
        (FILE, "tool", "", b"#!"),
    ];
    let outcome = world.pull(&entries, WorkspaceChecks::ALL).unwrap();
    assert_eq!((outcome.applied, outcome.conflicts.len()), (4, 0));
    let read = |name: &str| fs::read_to_string(world.project().join(name)).unwrap();
    assert_eq!(
        (read("src/main.rs").as_str(), read("new/deep/file").as_str(), read("l").as_str()),
        ("better", "new", "better")
    );
    assert_eq!(
        fs::metadata(world.project().join("tool")).unwrap().permissions().mode() & 0o7000,
        0,
        "neither setuid nor setgid"
    );
    // Once more: nothing is left to do, and the operator's next change is theirs.
    assert_eq!(world.pull(&entries, WorkspaceChecks::ALL).unwrap().applied, 0);
}

#[test]
fn a_deletion_is_a_change_and_a_cut_tar_is_none() {
    let mut world = World::new();
    let taken = tempfile::tempdir().unwrap();
    let bytes = tar(&[(FILE, "bottle.toml", "", b"version = 1")]);
    assert!(
        unpack(&bytes[..300], taken.path(), WorkspaceChecks::ALL).is_err(),
        "a part of a tar would look like deletions"
    );
    let mut found =
        changes(taken.path(), &world.baseline, Vec::new(), WorkspaceChecks::ALL).unwrap();
    found.without_manifest(Path::new(""), WorkspaceChecks::ALL);
    assert_eq!(
        apply(&found, taken.path(), &mut world.baseline, WorkspaceChecks::ALL).unwrap().applied,
        1
    );
    assert!(!world.project().join("src").exists() && world.project().join("bottle.toml").exists());
}

#[test]
fn one_conflict_holds_everything_back() {
    let mut world = World::new();
    fs::write(world.project().join("src/main.rs"), "operator's").unwrap();
    let before = world.state();
    let outcome = world
        .pull(
            &[(FILE, "src/main.rs", "", b"agent's"), (FILE, "other", "", b"new")],
            WorkspaceChecks::ALL,
        )
        .unwrap();
    assert_eq!((outcome.applied, outcome.conflicts.len()), (0, 1));
    assert_eq!(world.state(), before);
}

#[test]
fn what_runs_by_itself_is_named() {
    for path in [
        ".envrc",
        ".vscode/tasks.json",
        ".github/workflows/ci.yml",
        "a/.husky/pre-commit",
        ".gitattributes",
        "build.rs",
        ".cargo/config.toml",
    ] {
        assert!(names::runs_by_itself(Path::new(path)), "{path}");
    }
    assert!(!names::runs_by_itself(Path::new("src/main.rs")));
}
