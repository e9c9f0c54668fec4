//! What a push brings, listed by git: from its new ids down to the upstream's refs.

use std::time::Duration;

use super::head::PushHead;
use crate::git_gate::exec::ConfinedCommand;
use crate::git_gate::fetch::mirror::LOCAL_TIME;
use crate::git_gate::object_id::ObjectId;
use crate::git_gate::refusal::{Checks, Refusal, Rule};
use crate::git_gate::scan::push_scan::{NewObject, PathChange};
use crate::git_gate::text::printable;

/// Largest list of objects or path changes, in bytes.
const MAX_LIST_BYTES: usize = 256 << 20;
/// Time for one walk.
const WALK_TIME: Duration = LOCAL_TIME;

/// The range of a walk.
pub struct Walk<'a> {
    /// git, with the objects of the push.
    pub git: &'a ConfinedCommand,
    /// The ref updates, whose new ids are walked.
    pub head: &'a PushHead,
    /// The ids that the walk stops at.
    pub known: &'a [&'a ObjectId],
}

impl Walk<'_> {
    fn git(&self, args: &[&str]) -> ConfinedCommand {
        self.git.clone().args(args)
    }

    /// The revisions, for git's `--stdin`.
    fn revisions(&self) -> Vec<u8> {
        let new = self.head.updates.iter().map(|u| u.new.to_string());
        new.chain(self.known.iter().map(|id| format!("^{id}"))).fold(Vec::new(), |mut all, line| {
            all.extend_from_slice(line.as_bytes());
            all.push(b'\n');
            all
        })
    }
}

fn missing() -> Refusal {
    Refusal::new(Rule::Connectivity, "the push builds on objects that do not exist")
        .hint("push from a clone with its complete history, or fetch first")
}

/// Every object that is reachable from the new ids and not from the known ones. The walk also
/// proves that all of them exist.
///
/// # Errors
/// [`Rule::Connectivity`], [`Rule::Host`].
pub async fn new_objects(walk: &Walk<'_>) -> Result<Vec<NewObject>, Refusal> {
    let list = walk.git(&["rev-list", "--objects", "--in-commit-order", "--stdin"]);
    let output = list
        .run(walk.revisions(), MAX_LIST_BYTES, WALK_TIME)
        .await
        .map_err(|e| Refusal::host("list what is new", &e))?;
    if !output.status.success() {
        return Err(missing());
    }
    let mut commit = None;
    let mut all = Vec::new();
    for line in output.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let Some(id) = line.get(..40).and_then(ObjectId::parse) else { continue };
        let path = line.get(41..).map(|p| String::from_utf8_lossy(p).into_owned());
        if path.is_none() {
            commit = Some(id.clone());
        }
        all.push(NewObject { id, commit: commit.clone(), path: path.unwrap_or_default() });
    }
    Ok(all)
}

/// Every path that a new commit changes. Of a merge, only what differs from all parents.
///
/// # Errors
/// [`Rule::Connectivity`], [`Rule::Host`].
pub async fn path_changes(walk: &Walk<'_>) -> Result<Vec<PathChange>, Refusal> {
    let log = walk.git(&[
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
    let log = log.run_ok(walk.revisions(), MAX_LIST_BYTES, WALK_TIME, "list what is new").await;
    // If an object is missing, new_objects, which runs beside this, reports it.
    let Ok(output) = log else { return Err(missing()) };
    read_changes(&output)
        .ok_or_else(|| Refusal::host("list what is new", &"git log wrote an unknown line"))
}

/// Parses `git log -z --raw -c`.
fn read_changes(text: &[u8]) -> Option<Vec<PathChange>> {
    let mut all = Vec::new();
    let mut commit = None;
    let mut tokens = text.split(|b| *b == 0);
    while let Some(token) = tokens.next() {
        let token = token.strip_prefix(b"\n").unwrap_or(token);
        if let Some(id) = token.strip_prefix(b"\x01") {
            commit = Some(ObjectId::parse(id)?);
        } else if token.starts_with(b":") {
            let path = String::from_utf8_lossy(tokens.next()?).into_owned();
            let parents = token.iter().take_while(|b| **b == b':').count();
            let words: Vec<&str> =
                std::str::from_utf8(&token[parents..]).ok()?.split(' ').collect();
            let mode = u32::from_str_radix(words.get(parents)?, 8).ok()?;
            let ids: Vec<ObjectId> = words
                .get(parents + 1..2 * parents + 2)?
                .iter()
                .filter_map(|w| ObjectId::parse(w.as_bytes()))
                .collect();
            let (id, old) = ids.split_last()?;
            let old = old.iter().find(|id| !id.is_zero()).cloned();
            if !id.is_zero() {
                all.push(PathChange { commit: commit.clone()?, path, mode, id: id.clone(), old });
            }
        } else if !token.is_empty() {
            return None;
        }
    }
    Some(all)
}

/// Checks that each branch is a commit, and that each tag leads to one.
///
/// # Errors
/// [`Rule::Target`], [`Rule::Connectivity`], [`Rule::Host`].
pub async fn check_kinds(checks: &Checks, walk: &Walk<'_>) -> Result<(), Refusal> {
    let ids = walk
        .head
        .updates
        .iter()
        .fold(String::new(), |all, u| format!("{all}{}\n{}^{{}}\n", u.new, u.new));
    let types = walk.git(&["cat-file", "--batch-check=%(objecttype)"]);
    let what = "look at the refs' objects";
    let output = types.run_ok(ids.into_bytes(), 1 << 20, LOCAL_TIME, what).await?;
    let text = String::from_utf8_lossy(&output);
    let kinds: Vec<&str> = text.lines().collect();
    if kinds.iter().any(|k| k.ends_with(" missing")) {
        return Err(missing());
    }
    for (update, kinds) in walk.head.updates.iter().zip(kinds.chunks(2)) {
        let branch = update.name.starts_with("refs/heads/");
        let wrong = kinds.get(1) != Some(&"commit") || (branch && kinds.first() != Some(&"commit"));
        checks.refuse_if(wrong, Rule::Target, || {
            format!("{}: this is not a commit", printable(&update.name))
        })?;
    }
    Ok(())
}

/// Checks that no branch loses commits that the upstream has.
///
/// # Errors
/// [`Rule::Force`], [`Rule::Connectivity`], [`Rule::Host`].
pub async fn check_ancestry(checks: &Checks, walk: &Walk<'_>) -> Result<(), Refusal> {
    let moved = |u: &&super::head::RefUpdate| !u.old.is_zero() && u.name.starts_with("refs/heads/");
    for update in walk.head.updates.iter().filter(moved) {
        let compare =
            walk.git(&["merge-base", "--is-ancestor", update.old.as_str(), update.new.as_str()]);
        let output = compare
            .run(Vec::new(), 1 << 16, LOCAL_TIME)
            .await
            .map_err(|e| Refusal::host("compare histories", &e))?;
        if !matches!(output.status.code(), Some(0 | 1)) {
            return Err(missing());
        }
        checks.refuse_if(!output.status.success(), Rule::Force, || {
            format!(
                "{}: the branch would lose commits that the upstream has (no force)",
                printable(&update.name)
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_changes_is_read_with_its_merges() {
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
