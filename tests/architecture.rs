//! The shape of the source tree, read from the imports of every file: no circles, one direction,
//! and modules that stay pure. Prints the levels of each graph.

#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/rust_modules.rs"]
mod rust_modules;
#[path = "support/skip.rs"]
mod skip;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rust_modules::{Crate, Module};
use skip::skip;

/// Folders of crates, and a crate root inside each.
const CRATES: [&str; 9] =
    [".", "policy", "channel", "scan", "text", "bundle", "guest", "pack", "bench"];

/// The orchestrator's modules, highest first. A module imports only from lines below its own.
const LAYERS: [&[&str]; 15] = [
    &["cli"],
    &["dashboard"],
    &["launch"],
    &["supervise", "credentials", "workspace"],
    &["live_policy", "machine", "bundle", "provision"],
    &["logs"],
    &["manifest_files"],
    &["plan"],
    &["manifest"],
    &["provider"],
    &["closure"],
    &["state", "pki"],
    &["host"],
    &["values", "humanize"],
    &["error", "checks", "fault_injection"],
];

/// Circles that are still there: the folder, and the modules that import each other (or some of
/// them). Each line goes when its circle does; a line without a circle fails the test.
#[rustfmt::skip]
const KNOWN_CIRCLES: &[(&str, &str)] = &[
];

/// Imports against [`LAYERS`] that are still there; a line without its import fails the test.
const KNOWN_UPWARD: &[(&str, &str)] = &[];

/// What no file of `manifest` and `plan` may name: they start no process and touch no file.
const IMPURE: [&[&str]; 6] = [
    &["std", "fs"],
    &["fs_err"],
    &["std", "process"],
    &["tokio", "process"],
    &["crate", "host", "process"],
    &["duct"],
];

/// Files of `manifest` and `plan` that are still impure; a line whose file is pure fails the test.
const KNOWN_IMPURE: &[&str] = &[];

/// Where `Command::new` may stand: the module that starts every child process of the orchestrator,
/// and the guest, which has nothing else to start one with.
const SPAWNS: [&str; 2] = ["src/host/process", "guest/src/"];

/// Other files that still have a `Command::new`; a line whose file has none fails the test.
const KNOWN_SPAWNS: &[&str] = &[
    "bundle/src/confine/exec.rs",
    "bundle/src/confine/machine.rs",
    "bundle/src/git_gate/exec.rs",
    "bundle/src/git_gate/setup.rs",
    "bundle/src/git_gate/helper.rs",
];

/// The folder of the workspace: where the test runs, which may not be where it was built.
fn workspace() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Every crate whose sources are here, by the name of its root file; the rest is counted aloud.
fn crates() -> Vec<(String, Crate)> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for folder in CRATES {
        let src =
            workspace().join(if folder == "." { "src".into() } else { format!("{folder}/src") });
        let roots = ["lib.rs", "main.rs"].map(|root| src.join(root));
        // Where a build leaves a crate out, its root is an empty file.
        let real = roots
            .iter()
            .filter(|root| std::fs::read_to_string(root).is_ok_and(|text| text.len() > 100));
        let before = found.len();
        for root in real {
            let name = root.strip_prefix(workspace()).unwrap().display().to_string();
            found.push((name.replace("./", ""), Crate::read(root)));
        }
        if found.len() == before {
            missing.push(folder);
        }
    }
    if !missing.is_empty() {
        skip("the architecture of some crates", &format!("no sources of {missing:?}"));
    }
    found
}

/// Who imports whom among the children of one module: for each edge, an example of it.
type Graph = BTreeMap<(String, String), String>;

/// The graph of the children of `folder`. The folder's own file is the node `mod`.
fn graph(krate: &Crate, folder: &[String]) -> Graph {
    let node = |path: &[String]| -> Option<String> {
        let below = path.strip_prefix(folder)?;
        Some(below.first().map_or_else(|| "mod".to_owned(), Clone::clone))
    };
    let mut graph = Graph::new();
    for (path, module) in &krate.modules {
        let Some(from) = node(path) else { continue };
        for import in &module.paths {
            let target = krate.resolve(path, import).and_then(|target| node(&target));
            if let Some(to) = target.filter(|to| *to != from) {
                let example = format!("{}: {}", module.file.display(), import.join("::"));
                graph.entry((from.clone(), to)).or_insert(example);
            }
        }
    }
    graph
}

/// Modules that reach themselves again, in groups; and the others in levels, the lowest first.
fn circles_and_levels(graph: &Graph) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let mut reach: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in graph.keys() {
        reach.entry(from).or_default().insert(to);
        reach.entry(to).or_default();
    }
    let direct = reach.clone();
    let names: Vec<&str> = reach.keys().copied().collect();
    for middle in &names {
        let beyond = reach[middle].clone();
        for targets in reach.values_mut() {
            if targets.contains(middle) {
                targets.extend(&beyond);
            }
        }
    }
    let mut circles: Vec<Vec<String>> = Vec::new();
    for name in names.iter().filter(|n| reach[**n].contains(**n)) {
        let members =
            names.iter().filter(|m| reach[*name].contains(**m) && reach[**m].contains(*name));
        let members: Vec<String> = members.map(ToString::to_string).collect();
        if !circles.contains(&members) {
            circles.push(members);
        }
    }
    let mut levels: Vec<Vec<String>> = Vec::new();
    let mut left: BTreeSet<&str> = names.iter().copied().collect();
    while !left.is_empty() {
        let free = |name: &&&str| direct[**name].iter().all(|to| !left.contains(to));
        let level: Vec<&str> = left.iter().filter(free).copied().collect();
        if level.is_empty() {
            break; // only circles are left
        }
        left.retain(|name| !level.contains(name));
        levels.push(level.iter().map(ToString::to_string).collect());
    }
    (circles, levels)
}

/// Every circle of a crate: the folder, its members, and an example of each import between them.
fn circles_of(name: &str, krate: &Crate) -> Vec<(String, Vec<String>, String)> {
    let mut found = Vec::new();
    for folder in krate.modules.keys() {
        let graph = graph(krate, folder);
        let (circles, levels) = circles_and_levels(&graph);
        let place = format!("{name} {}", folder.join("/")).trim_end().to_owned();
        if !levels.is_empty() {
            let levels: Vec<String> = levels.iter().map(|level| level.join(" ")).collect();
            println!("{place}: {}", levels.join(" < "));
        }
        for members in circles {
            let inside =
                |(from, to): &(String, String)| members.contains(from) && members.contains(to);
            let edges = graph.iter().filter(|(edge, _)| inside(edge));
            let text = edges.map(|((from, to), why)| format!("\n  {from} -> {to}   ({why})"));
            let text = text.collect::<String>();
            found.push((place.clone(), members, text));
        }
    }
    found
}

/// Fails with what is new, and with lines of a list that are no longer true.
fn check<T, K: std::fmt::Debug>(
    what: &str,
    found: &[(T, String)],
    known: &[K],
    covers: impl Fn(&K, &T) -> bool,
) {
    let is_new = |f: &T| !known.iter().any(|k| covers(k, f));
    let new: Vec<&str> =
        found.iter().filter(|(f, _)| is_new(f)).map(|(_, text)| text.as_str()).collect();
    let stale: Vec<&K> =
        known.iter().filter(|k| !found.iter().any(|(f, _)| covers(k, f))).collect();
    println!("{what}: {} known, {} new", found.len() - new.len(), new.len());
    for (_, text) in found.iter().filter(|(f, _)| !is_new(f)) {
        println!("known: {}", text.lines().next().unwrap_or_default());
    }
    assert!(new.is_empty(), "{what}:\n{}", new.join("\n"));
    assert!(stale.is_empty(), "{what}: gone, so remove from the list: {stale:?}");
}

#[test]
fn modules_import_each_other_in_no_circle() {
    let mut found = Vec::new();
    for (name, krate) in crates() {
        for (place, members, edges) in circles_of(&name, &krate) {
            let text = format!("{place}: {}{edges}", members.join(", "));
            found.push(((place, members), text));
        }
    }
    check("circles", &found, KNOWN_CIRCLES, |(place, names), (at, members)| {
        place == at && members.iter().all(|m| names.split(' ').any(|name| name == m))
    });
}

/// Imports of the orchestrator that go up, or whose module has no line in [`LAYERS`].
fn upward(krate: &Crate) -> Vec<((String, String), String)> {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let graph = graph(krate, &[]).into_iter().filter(|((from, _), _)| from != "mod");
    graph
        .filter(|((from, to), _)| match (layer(from), layer(to)) {
            (Some(from), Some(to)) => from >= to,
            _ => true,
        })
        .map(|(edge, why)| {
            let text = format!("{} -> {}   ({why})", edge.0, edge.1);
            (edge, text)
        })
        .collect()
}

#[test]
fn the_orchestrator_imports_downward_only() {
    let all = crates();
    let Some((_, krate)) = all.iter().find(|(name, _)| name == "src/lib.rs") else {
        return; // `crates` has counted it
    };
    check("imports upward", &upward(krate), KNOWN_UPWARD, |(from, to), edge| {
        (*from, *to) == (edge.0.as_str(), edge.1.as_str())
    });
}

fn file_name(module: &Module) -> String {
    let name = module.file.strip_prefix(workspace()).unwrap_or(&module.file);
    name.strip_prefix("./").unwrap_or(name).display().to_string()
}

/// The first impure path that a module names, in full.
fn impure(module: &Module) -> Option<String> {
    let full = module.paths.iter();
    full.map(|path| path.join("::")).find(|path| {
        IMPURE.iter().any(|bad| format!("{path}::").starts_with(&format!("{}::", bad.join("::"))))
    })
}

#[test]
fn manifest_and_plan_start_no_process_and_touch_no_file() {
    let mut found = BTreeMap::new();
    for (_, krate) in crates().iter().filter(|(name, _)| name == "src/lib.rs") {
        for (path, module) in &krate.modules {
            if path.first().is_some_and(|top| ["manifest", "plan"].contains(&top.as_str())) {
                if let Some(path) = impure(module) {
                    let file = file_name(module);
                    found.insert(file.clone(), format!("{file} names {path}"));
                }
            }
        }
    }
    let found: Vec<(String, String)> = found.into_iter().collect();
    check("impure files", &found, KNOWN_IMPURE, |known, file| known == file);
}

/// Whether a module starts a process by itself.
fn spawns(module: &Module) -> bool {
    module.tokens.windows(3).any(|w| w[0] == "Command" && w[1] == "::" && w[2] == "new")
}

#[test]
fn one_module_starts_every_child_process() {
    let mut found = BTreeMap::new();
    for (_, krate) in &crates() {
        for module in krate.modules.values().filter(|m| spawns(m)) {
            let file = file_name(module);
            if !SPAWNS.iter().any(|allowed| file.starts_with(allowed)) {
                found.insert(file.clone(), format!("{file} has a Command::new"));
            }
        }
    }
    let found: Vec<(String, String)> = found.into_iter().collect();
    check("Command::new", &found, KNOWN_SPAWNS, |known, file| known == file);
}

/// A crate of these files, for the negative controls.
fn planted(files: &[(&str, &str)]) -> (tempfile::TempDir, Crate) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let krate = Crate::read(&dir.path().join("lib.rs"));
    (dir, krate)
}

fn members(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let (_dir, krate) = planted(files);
    circles_of("planted", &krate).into_iter().map(|(_, members, _)| members).collect()
}

#[test]
fn a_planted_circle_is_found() {
    let lib = ("lib.rs", "mod a;\nmod b;\nmod c;");
    let plain = [lib, ("a.rs", "use crate::b::B;"), ("b.rs", "pub struct B;"), ("c.rs", "")];
    assert!(members(&plain).is_empty(), "without the circle there is none");
    let tree =
        "use std::io;\nuse crate::{\n    b::{\n        self,\n        B as Other,\n    },\n};";
    for (a, b) in [
        (tree, "pub struct B; fn f() { crate::a::f() }"),
        ("use super::b;", "use crate::c::through;"),
        ("fn f(b: super::b::B) {}", "/* \" */ const S: &str = r#\"\"#; use super::a as other;"),
    ] {
        // Through another module's re-export, too.
        let c = ("c.rs", "pub(crate) use crate::a::f as through;");
        let found = members(&[lib, ("a.rs", a), ("b.rs", b), c]);
        assert!(
            found.iter().any(|m| m.starts_with(&["a".into(), "b".into()])),
            "{a}\n{b}: {found:?}"
        );
    }
    let parent = [
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod child; pub struct Shared; fn f() { child::g() }"),
        ("a/child.rs", "use super::Shared; pub fn g() {}"),
    ];
    assert_eq!(members(&parent), [["child", "mod"]], "a type that the parent defines");
    let shared = [
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod child; mod shared; pub use shared::*; fn f() { child::g() }"),
        ("a/child.rs", "use super::Shared; pub fn g() {}"),
        ("a/shared.rs", "pub struct Shared;"),
    ];
    assert!(members(&shared).is_empty(), "in a leaf file it is no circle");
}

#[test]
fn tests_comments_and_strings_import_nothing() {
    let b = "
        // use crate::a;
        const TEXT: &str = \"use crate::a;\";
        #[cfg(test)]
        use crate::a::{f, g};
        #[cfg(test)]
        mod tests { use crate::a::f; mod deeper { use crate::a::g; } }
        struct S { #[cfg(test)] field: crate::a::F, other: u8 }
        #[cfg(test)]
        #[allow(dead_code)]
        fn only_in_tests() { crate::a::f(); }
        #[cfg(test)]
        mod file_that_is_not_there;
    ";
    let files = [("lib.rs", "mod a;\nmod b;"), ("a.rs", "use crate::b::S;"), ("b.rs", b)];
    assert!(members(&files).is_empty());
    let after = format!("{b} use crate::a;");
    let files = [files[0], files[1], ("b.rs", &after)];
    assert_eq!(members(&files), [["a", "b"]], "what comes after test code counts");
}

#[test]
fn planted_upward_imports_files_and_processes_are_found() {
    let (_dir, krate) = planted(&[
        ("lib.rs", "mod cli; mod manifest; mod new_folder;"),
        ("cli.rs", "use crate::manifest::read;"),
        ("manifest.rs", "use std::{fs, io}; fn read() { std::process::Command::new(\"x\"); }"),
        ("new_folder.rs", "use crate::manifest;"),
    ]);
    let found: Vec<(String, String)> = upward(&krate).into_iter().map(|(edge, _)| edge).collect();
    assert_eq!(found, [("new_folder".into(), "manifest".into())], "a folder without a layer");
    let module = &krate.modules[&vec!["manifest".to_owned()]];
    assert_eq!(impure(module).as_deref(), Some("std::fs"));
    assert!(spawns(module) && !spawns(&krate.modules[&vec!["cli".to_owned()]]));
    let (_dir, krate) = planted(&[
        ("lib.rs", "mod cli; mod manifest;"),
        ("cli.rs", ""),
        ("manifest.rs", "fn read() { crate::cli::main() }"),
    ]);
    assert_eq!(upward(&krate).len(), 1);
}
