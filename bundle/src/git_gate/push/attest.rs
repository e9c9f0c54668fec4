//! Attestation: a signed note about each branch and tag that git-gate forwards, pushed together with
//! it. The agent's commits, and so its clone, stay unchanged.

use std::collections::BTreeMap;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::head::{PushHead, RefUpdate};
use crate::git_gate::exec::ConfinedCommand;
use crate::git_gate::fetch::mirror::{LOCAL_TIME, Mirror, remove_leftovers};
use crate::git_gate::object_id::ObjectId;
use crate::git_gate::refusal::{Refusal, Rule};
use crate::git_gate::ssh::key::Key;

/// The ref of the notes at the upstream.
pub const NOTES_REF: &str = "refs/notes/bot-bottle";
/// The signatures' namespace (`ssh-keygen -Y verify -n`).
pub const NAMESPACE: &str = "bot-bottle-push";
/// The ref of the upstream's notes in the mirror. It is hidden from guests.
const MIRROR_REF: &str = "refs/gate/notes";
/// Largest list of all notes, in bytes.
const MAX_LIST_BYTES: usize = 64 << 20;
/// Largest existing note that is kept, in bytes.
const MAX_NOTE_BYTES: usize = 64 << 10;
/// Largest output of a command that prints one id, in bytes.
const MAX_ID_OUTPUT: usize = 1 << 10;

/// Signs notes about the pushes of one bottle.
#[derive(Debug)]
pub struct Attestor {
    key: Key,
    agent: String,
    slug: String,
}

/// New notes that are not at the upstream yet.
#[derive(Debug)]
pub struct Notes {
    /// The commit with the new notes.
    pub new: ObjectId,
    /// Its parent: the upstream's notes.
    pub old: Option<ObjectId>,
}

impl Attestor {
    /// Signs with `key` for the pushes of `agent` in the bottle `slug`.
    #[must_use]
    pub fn new(key: Key, agent: &str, slug: &str) -> Self {
        Self { key, agent: agent.to_owned(), slug: slug.to_owned() }
    }

    /// Writes notes about the commits of `head`. `git` reads and writes the objects of the push.
    /// Existing notes on a commit are kept. `policy` is the digest of the policy.
    ///
    /// # Errors
    /// [`Rule::Upstream`], [`Rule::Host`].
    pub async fn notes(
        &self,
        mirror: &Mirror,
        git: &ConfinedCommand,
        head: &PushHead,
        policy: &str,
    ) -> Result<Notes, Refusal> {
        let old = fetch_notes(mirror).await?;
        let mut notes = match &old {
            Some(old) => {
                let list = git.clone().args(["ls-tree", "-r", "--full-tree", old.as_str()]);
                let what = "read the notes";
                entries(&list.run_ok(Vec::new(), MAX_LIST_BYTES, LOCAL_TIME, what).await?)
            }
            None => BTreeMap::new(),
        };
        for update in &head.updates {
            let commit = format!("{}^{{commit}}", update.new);
            let find = ["rev-parse", "--verify", "--quiet", &commit];
            let commit = run_for_id(git, &find, Vec::new(), "find a tag's commit").await?;
            let mut text = self.text(mirror, update, policy)?.into_bytes();
            if let Some(before) = existing(git, notes.get(commit.as_str())).await {
                text = [before, b"\n".to_vec(), text].concat();
            }
            let write = ["hash-object", "-w", "-t", "blob", "--stdin"];
            let blob = run_for_id(git, &write, text, "write a note").await?;
            notes.insert(commit.as_str().to_owned(), blob);
        }
        Ok(Notes { new: commit_notes(git, &notes, old.as_ref()).await?, old })
    }

    /// The text of a note: `key value` lines and their signature.
    fn text(&self, mirror: &Mirror, update: &RefUpdate, policy: &str) -> Result<String, Refusal> {
        let now = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default();
        let old = if update.old.is_zero() { "none" } else { update.old.as_str() };
        let message = format!(
            "bot-bottle push 1\nupstream {}\nref {}\nold {old}\nnew {}\nagent {}\nbottle {}\n\
             policy {policy}\ntime {now}\n",
            mirror.config.url.as_str(),
            update.name,
            update.new,
            self.agent,
            self.slug,
        );
        let failed = || Refusal::host("sign a note", &"the key cannot be used");
        let signature = self.key.sign_message(NAMESPACE, message.as_bytes()).ok_or_else(failed)?;
        Ok(format!("{message}{signature}"))
    }
}

/// The content of the note `blob`. One that is larger than any note of ours is not kept.
async fn existing(git: &ConfinedCommand, blob: Option<&ObjectId>) -> Option<Vec<u8>> {
    let read = git.clone().args(["cat-file", "blob", blob?.as_str()]);
    let output = read.run(Vec::new(), MAX_NOTE_BYTES, LOCAL_TIME).await.ok()?;
    output.status.success().then_some(output.stdout)
}

/// Writes the tree of `notes`, by commit, and a commit of it that follows `parent`.
async fn commit_notes(
    git: &ConfinedCommand,
    notes: &BTreeMap<String, ObjectId>,
    parent: Option<&ObjectId>,
) -> Result<ObjectId, Refusal> {
    let what = "write the notes";
    let tree = notes
        .iter()
        .fold(String::new(), |tree, (name, blob)| format!("{tree}100644 blob {blob}\t{name}\n"));
    let tree = run_for_id(git, &["mktree"], tree.into_bytes(), what).await?;
    let mut commit = git.clone();
    for who in ["AUTHOR", "COMMITTER"] {
        commit = commit
            .env(&format!("GIT_{who}_NAME"), "git-gate")
            .env(&format!("GIT_{who}_EMAIL"), "git-gate@bot-bottle.invalid");
    }
    let mut args = vec!["commit-tree", tree.as_str(), "-m", "git-gate: attested"];
    if let Some(parent) = parent {
        args.extend(["-p", parent.as_str()]);
    }
    run_for_id(&commit, &args, Vec::new(), what).await
}

/// Runs git for the id that it prints first.
async fn run_for_id(
    git: &ConfinedCommand,
    args: &[&str],
    input: Vec<u8>,
    what: &str,
) -> Result<ObjectId, Refusal> {
    let output = git.clone().args(args).run_ok(input, MAX_ID_OUTPUT, LOCAL_TIME, what).await?;
    output
        .get(..40)
        .and_then(ObjectId::parse)
        .ok_or_else(|| Refusal::host(what, &"git printed no object id"))
}

/// Whether the upstream's notes are neither the parent of `notes` nor `notes` themselves: somebody
/// else has pushed notes.
pub async fn moved(mirror: &Mirror, notes: Option<&Notes>) -> bool {
    let Some(notes) = notes else { return false };
    let now = notes_at_upstream(mirror).await;
    now.is_ok_and(|now| now != notes.old && now.as_ref() != Some(&notes.new))
}

/// Whether the upstream has `notes`. True if there are no notes.
pub async fn arrived(mirror: &Mirror, notes: Option<&Notes>) -> bool {
    let Some(notes) = notes else { return true };
    notes_at_upstream(mirror).await.is_ok_and(|now| now.as_ref() == Some(&notes.new))
}

async fn notes_at_upstream(mirror: &Mirror) -> Result<Option<ObjectId>, Refusal> {
    let remote = &mirror.remote;
    let list = remote.reached_by(mirror.git()).args(["ls-remote", "--", remote.url(), NOTES_REF]);
    let output = list.run(Vec::new(), 1 << 20, LOCAL_TIME).await.map_err(|e| unavailable(&e))?;
    if !output.status.success() {
        return Err(unavailable(&output.reason()));
    }
    // git matches the end of a name, so it also lists refs/heads/x/refs/notes/….
    let exact = |line: &[u8]| line.get(40..) == Some(format!("\t{NOTES_REF}").as_bytes());
    let mut lines = output.stdout.split(|b| *b == b'\n');
    Ok(lines.find(|l| exact(l)).and_then(|l| ObjectId::parse(&l[..40])))
}

fn unavailable(why: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Rule::Upstream, format!("the upstream's notes cannot be read: {why}"))
}

/// Fetches the upstream's notes into the mirror. Returns their commit.
async fn fetch_notes(mirror: &Mirror) -> Result<Option<ObjectId>, Refusal> {
    let Some(commit) = notes_at_upstream(mirror).await? else { return Ok(None) };
    let refspec = format!("+{NOTES_REF}:{MIRROR_REF}");
    let fetch = [
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-auto-maintenance",
        "--no-write-fetch-head",
        "--refmap=",
        "--",
        mirror.remote.url(),
        &refspec,
    ];
    let fetch = mirror.remote.reached_by(mirror.git().rw(&mirror.path)).args(fetch);
    match fetch.run(Vec::new(), 1 << 16, LOCAL_TIME).await {
        Ok(output) if output.status.success() => Ok(Some(commit)),
        failed => {
            // A fetch that ran out of time was killed.
            remove_leftovers(&mirror.path).map_err(|e| Refusal::host("clean a mirror", &e))?;
            Err(unavailable(&failed.map_or_else(|e| e.to_string(), |output| output.reason())))
        }
    }
}

/// The notes in a `git ls-tree -r` by commit, at any depth of fan-out directories. Entries that are
/// not notes are left out.
fn entries(list: &[u8]) -> BTreeMap<String, ObjectId> {
    let entry = |line: &[u8]| {
        let (what, path) = std::str::from_utf8(line).ok()?.split_once('\t')?;
        let commit = ObjectId::parse(path.replace('/', "").as_bytes())?;
        let blob = ObjectId::parse(what.strip_prefix("100644 blob ")?.as_bytes())?;
        Some((commit.as_str().to_owned(), blob))
    };
    list.split(|b| *b == b'\n').filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_notes_are_kept_of_a_tree() {
        let (commit, blob) = ("c".repeat(40), "b".repeat(40));
        let (fan, rest) = commit.split_at(2);
        let text = format!(
            "100644 blob {blob}\t{fan}/{rest}\n100644 blob {blob}\t{commit}\n100755 blob {blob}\t{commit}\n120000 blob {blob}\tx\n\
             100644 blob {blob}\t../..\n160000 commit {blob}\t{commit}\n100644 blob {blob}\t\"a\\nb\"\n"
        );
        assert_eq!(entries(text.as_bytes()).keys().collect::<Vec<_>>(), [&commit]);
    }
}
