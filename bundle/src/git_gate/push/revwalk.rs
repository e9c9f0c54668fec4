//! What a push brings, by walks of git's from its new ids to the upstream's refs.

use crate::git_gate::exec::Call;
use crate::git_gate::fetch::mirror::{LOCAL, ran};
use crate::git_gate::push::commands::{Head, Id};
use crate::git_gate::refusal::{Refusal, Rule};
use crate::git_gate::scan::objects::{Change, New, neutral};
use crate::git_gate::server::Gate;

/// Most bytes of a list of objects, or of changes.
const LIST: usize = 256 << 20;

/// Standard input for a walk: from what is new, to what is known.
fn walk(head: &Head, known: &[&Id]) -> Vec<u8> {
    let new = head.commands.iter().map(|c| c.new.to_string());
    new.chain(known.iter().map(|id| format!("^{id}"))).fold(Vec::new(), |mut all, line| {
        all.extend_from_slice(line.as_bytes());
        all.push(b'\n');
        all
    })
}

fn missing() -> Refusal {
    Refusal::new(Rule::Connectivity, "the push builds on objects that are not there")
        .hint("push from a clone that has all of its history, or fetch first")
}

/// Everything that is reached from the new ids and not from the upstream's refs; that all of it is
/// there is shown on the way.
pub(in crate::git_gate) async fn new_objects(
    git: &Call,
    head: &Head,
    known: &[&Id],
) -> Result<Vec<New>, Refusal> {
    let call = git.again().args(["rev-list", "--objects", "--in-commit-order", "--stdin"]);
    let ended = call
        .run(walk(head, known), LIST, LOCAL)
        .await
        .map_err(|e| Refusal::host("list what is new", &e))?;
    if !ended.status.success() {
        return Err(missing());
    }
    let mut commit = None;
    let mut all = Vec::new();
    for line in ended.output.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let Some(id) = line.get(..40).and_then(Id::parse) else { continue };
        let path = line.get(41..).map(|p| String::from_utf8_lossy(p).into_owned());
        if path.is_none() {
            commit = Some(id.clone());
        }
        all.push(New { id, commit: commit.clone(), path: path.unwrap_or_default() });
    }
    Ok(all)
}

/// Every path that a new commit changes; of merges, what is in none of the parents.
pub(in crate::git_gate) async fn changes(
    git: &Call,
    head: &Head,
    known: &[&Id],
) -> Result<Vec<Change>, Refusal> {
    let call = git.again().args([
        "log",
        "--stdin",
        "--format=tformat:%x01%H",
        "-z",
        "--raw",
        "--no-abbrev",
        "--no-renames",
        "-c",
        "--root",
        "--no-ext-diff",
    ]);
    let ended = ran(call.run(walk(head, known), LIST, LOCAL).await, "list what is new");
    // A missing object is told by the walk beside this one.
    let Ok(ended) = ended else { return Err(missing()) };
    read_changes(&ended.output)
        .ok_or_else(|| Refusal::host("list what is new", &"an unknown line of git log"))
}

fn read_changes(text: &[u8]) -> Option<Vec<Change>> {
    let mut all = Vec::new();
    let mut commit = None;
    let mut tokens = text.split(|b| *b == 0);
    while let Some(token) = tokens.next() {
        let token = token.strip_prefix(b"\n").unwrap_or(token);
        if let Some(id) = token.strip_prefix(b"\x01") {
            commit = Some(Id::parse(id)?);
        } else if token.starts_with(b":") {
            let path = String::from_utf8_lossy(tokens.next()?).into_owned();
            let parents = token.iter().take_while(|b| **b == b':').count();
            let words: Vec<&str> =
                std::str::from_utf8(&token[parents..]).ok()?.split(' ').collect();
            let mode = u32::from_str_radix(words.get(parents)?, 8).ok()?;
            let ids: Vec<Id> = words
                .get(parents + 1..2 * parents + 2)?
                .iter()
                .filter_map(|w| Id::parse(w.as_bytes()))
                .collect();
            let (id, old) = ids.split_last()?;
            let old = old.iter().find(|id| !id.is_zero()).cloned();
            if !id.is_zero() {
                all.push(Change { commit: commit.clone()?, path, mode, id: id.clone(), old });
            }
        } else if !token.is_empty() {
            return None;
        }
    }
    Some(all)
}

/// A branch is a commit; a tag leads to one.
pub(in crate::git_gate) async fn kinds(
    gate: &Gate,
    git: &Call,
    head: &Head,
) -> Result<(), Refusal> {
    let ask = head
        .commands
        .iter()
        .fold(String::new(), |all, c| format!("{all}{}\n{}^{{}}\n", c.new, c.new));
    let call = git.again().args(["cat-file", "--batch-check=%(objecttype)"]);
    let ended = ran(call.run(ask.into_bytes(), 1 << 20, LOCAL).await, "look at the refs' objects")?;
    let text = String::from_utf8_lossy(&ended.output);
    let kinds: Vec<&str> = text.lines().collect();
    if kinds.iter().any(|k| k.ends_with(" missing")) {
        return Err(missing());
    }
    for (command, kinds) in head.commands.iter().zip(kinds.chunks(2)) {
        let branch = command.name.starts_with("refs/heads/");
        let wrong = kinds.get(1) != Some(&"commit") || (branch && kinds.first() != Some(&"commit"));
        gate.guards
            .check(wrong, Rule::Target, || format!("{}: not a commit", neutral(&command.name)))?;
    }
    Ok(())
}

/// No branch loses what the upstream has.
pub(in crate::git_gate) async fn ancestry(
    gate: &Gate,
    git: &Call,
    head: &Head,
) -> Result<(), Refusal> {
    for command in
        head.commands.iter().filter(|c| !c.old.is_zero() && c.name.starts_with("refs/heads/"))
    {
        let call = git.again().args([
            "merge-base",
            "--is-ancestor",
            command.old.as_str(),
            command.new.as_str(),
        ]);
        let ended = call
            .run(Vec::new(), 1 << 16, LOCAL)
            .await
            .map_err(|e| Refusal::host("compare histories", &e))?;
        if !matches!(ended.status.code(), Some(0 | 1)) {
            return Err(missing());
        }
        gate.guards.check(!ended.status.success(), Rule::Force, || {
            format!(
                "{}: the branch would lose commits that the upstream has (no force)",
                neutral(&command.name)
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_changes_is_read_merges_too() {
        let (a, b, zero) = ("a".repeat(40), "b".repeat(40), "0".repeat(40));
        let text = format!(
            "\x01{a}\0\0::000000 100644 100644 {zero} {b} {a} AM\0evil\0\x01{b}\0\n:100644 000000 {a} {zero} D\0gone\0:000000 120000 {zero} {b} A\0:x\0"
        );
        let read = read_changes(text.as_bytes()).unwrap();
        let shown: Vec<_> =
            read.iter().map(|c| (c.path.as_str(), c.mode, c.old.is_some())).collect();
        assert_eq!(shown, [("evil", 0o100_644, true), (":x", 0o120_000, false)]);
        assert!(read_changes(b"nonsense").is_none() && read_changes(b"\x01abc").is_none());
    }
}
