//! What the gate vouches for: a signed note about each branch and tag that it forwards, pushed
//! together with it. The agent's commits, and so its clone, stay what they are.

use std::collections::BTreeMap;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::git_gate::exec::Call;
use crate::git_gate::fetch::mirror::{LOCAL, Repo, clean, ran};
use crate::git_gate::push::commands::{Command, Head, Id};
use crate::git_gate::refusal::{Refusal, Rule};
use crate::git_gate::ssh::key::Key;

/// Where the notes are, at the upstream.
pub const NOTES: &str = "refs/notes/bot-bottle";
/// What a signature is for (`ssh-keygen -Y verify -n`).
pub const NAMESPACE: &str = "bot-bottle-push";
/// Where they are in the mirror.
const HIDDEN: &str = "refs/gate/notes";
/// Most bytes of the list of all notes, and of one note that is kept.
const LIST: usize = 64 << 20;
const NOTE: usize = 64 << 10;

/// Who vouches, for whom.
#[derive(Debug)]
pub struct Attestor {
    key: Key,
    agent: String,
    slug: String,
}

/// The notes with what is new in them, not yet at the upstream.
#[derive(Debug)]
pub struct Notes {
    /// Their commit.
    pub new: Id,
    /// The upstream's, which it follows.
    pub old: Option<Id>,
}

impl Attestor {
    /// For what `agent` pushes from the bottle `slug`.
    #[must_use]
    pub fn new(key: Key, agent: &str, slug: &str) -> Self {
        Self { key, agent: agent.to_owned(), slug: slug.to_owned() }
    }

    /// Writes the notes on what `head` pushes, by `git`, whose objects are the push's own. What
    /// others said of a commit stays.
    ///
    /// # Errors
    /// [`Rule::Upstream`], [`Rule::Host`].
    pub async fn notes(
        &self,
        repo: &Repo,
        git: &Call,
        head: &Head,
        policy: &str,
    ) -> Result<Notes, Refusal> {
        let old = theirs(repo).await?;
        let mut all = match &old {
            Some(old) => {
                let call = git.again().args(["ls-tree", "-r", "--full-tree", old.as_str()]);
                entries(&ran(call.run(Vec::new(), LIST, LOCAL).await, "read the notes")?.output)
            }
            None => BTreeMap::new(),
        };
        for command in &head.commands {
            let call = git.again().args([
                "rev-parse",
                "--verify",
                "--quiet",
                &format!("{}^{{commit}}", command.new),
            ]);
            let target = id(&ran(
                call.run(Vec::new(), 1 << 10, LOCAL).await,
                "find a tag's commit",
            )?
            .output)?;
            let mut text = self.text(repo, command, policy)?.into_bytes();
            if let Some(before) = all.get(target.as_str()) {
                let call = git.again().args(["cat-file", "blob", before.as_str()]);
                let before = call.run(Vec::new(), NOTE, LOCAL).await;
                // One that nobody would have written is none that has to stay.
                if let Some(before) = before.ok().filter(|b| b.status.success()) {
                    text = [before.output, b"\n".to_vec(), text].concat();
                }
            }
            let call = git.again().args(["hash-object", "-w", "-t", "blob", "--stdin"]);
            let blob = id(&ran(call.run(text, 1 << 10, LOCAL).await, "write a note")?.output)?;
            all.insert(target.as_str().to_owned(), blob);
        }
        let tree = all.iter().fold(String::new(), |tree, (name, blob)| {
            format!("{tree}100644 blob {blob}\t{name}\n")
        });
        let tree = id(&ran(
            git.again().args(["mktree"]).run(tree.into_bytes(), 1 << 10, LOCAL).await,
            "write the notes",
        )?
        .output)?;
        let mut call = git.again().args(["commit-tree", tree.as_str(), "-m", "git-gate: attested"]);
        if let Some(old) = &old {
            call = call.args(["-p", old.as_str()]);
        }
        for who in ["AUTHOR", "COMMITTER"] {
            call = call
                .env(&format!("GIT_{who}_NAME"), "git-gate")
                .env(&format!("GIT_{who}_EMAIL"), "git-gate@bot-bottle.invalid");
        }
        let new = id(&ran(call.run(Vec::new(), 1 << 10, LOCAL).await, "write the notes")?.output)?;
        Ok(Notes { new, old })
    }

    fn text(&self, repo: &Repo, command: &Command, policy: &str) -> Result<String, Refusal> {
        let now = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default();
        let old = if command.old.is_zero() { "none" } else { command.old.as_str() };
        let message = format!(
            "bot-bottle push 1\nupstream {}\nref {}\nold {old}\nnew {}\nagent {}\nbottle {}\npolicy {policy}\ntime {now}\n",
            repo.upstream.url.as_str(),
            command.name,
            command.new,
            self.agent,
            self.slug,
        );
        let failed = || Refusal::host("sign a note", &"the key cannot be used");
        Ok(format!(
            "{message}{}",
            self.key.sign_message(NAMESPACE, message.as_bytes()).ok_or_else(failed)?
        ))
    }
}

/// Whether the upstream has other notes by now than those that `notes` follow, and not these.
pub async fn moved(repo: &Repo, notes: Option<&Notes>) -> bool {
    let Some(notes) = notes else { return false };
    at_upstream(repo).await.is_ok_and(|now| now != notes.old && now.as_ref() != Some(&notes.new))
}

/// Whether the upstream has `notes`; true when there are none to have.
pub async fn arrived(repo: &Repo, notes: Option<&Notes>) -> bool {
    let Some(notes) = notes else { return true };
    at_upstream(repo).await.is_ok_and(|now| now.as_ref() == Some(&notes.new))
}

async fn at_upstream(repo: &Repo) -> Result<Option<Id>, Refusal> {
    let ask =
        repo.remote.reached_by(repo.git()).args(["ls-remote", "--", repo.remote.url(), NOTES]);
    let ended = ask.run(Vec::new(), 1 << 20, LOCAL).await.map_err(|e| unavailable(&e))?;
    if !ended.status.success() {
        return Err(unavailable(&ended.reason()));
    }
    // git matches ends of names: refs/heads/x/refs/notes/… is listed as well.
    let exact = |line: &[u8]| line.get(40..) == Some(format!("\t{NOTES}").as_bytes());
    Ok(ended.output.split(|b| *b == b'\n').find(|l| exact(l)).and_then(|l| Id::parse(&l[..40])))
}

fn unavailable(why: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Rule::Upstream, format!("the upstream's notes cannot be had: {why}"))
}

/// The upstream's notes, brought into the mirror, where no guest sees them.
async fn theirs(repo: &Repo) -> Result<Option<Id>, Refusal> {
    let Some(theirs) = at_upstream(repo).await? else { return Ok(None) };
    let refspec = format!("+{NOTES}:{HIDDEN}");
    let fetch = [
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-auto-maintenance",
        "--no-write-fetch-head",
        "--refmap=",
        "--",
        repo.remote.url(),
        &refspec,
    ];
    let call = repo.remote.reached_by(repo.git().rw(&repo.mirror)).args(fetch);
    match call.run(Vec::new(), 1 << 16, LOCAL).await {
        Ok(ended) if ended.status.success() => Ok(Some(theirs)),
        failed => {
            // What ran out of time was killed.
            clean(&repo.mirror).map_err(|e| Refusal::host("clean a mirror", &e))?;
            Err(unavailable(&failed.map_or_else(|e| e.to_string(), |ended| ended.reason())))
        }
    }
}

/// Notes by their commits, of a list of git's; whatever directories they are in, and nothing that
/// is none.
fn entries(list: &[u8]) -> BTreeMap<String, Id> {
    let entry = |line: &[u8]| {
        let (what, path) = std::str::from_utf8(line).ok()?.split_once('\t')?;
        let commit = Id::parse(path.replace('/', "").as_bytes())?;
        Some((
            commit.as_str().to_owned(),
            Id::parse(what.strip_prefix("100644 blob ")?.as_bytes())?,
        ))
    };
    list.split(|b| *b == b'\n').filter_map(entry).collect()
}

fn id(output: &[u8]) -> Result<Id, Refusal> {
    output
        .get(..40)
        .and_then(Id::parse)
        .ok_or_else(|| Refusal::host("write a note", &"git names no object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_note_is_kept_of_a_tree() {
        let (commit, blob) = ("c".repeat(40), "b".repeat(40));
        let (fan, rest) = commit.split_at(2);
        let text = format!(
            "100644 blob {blob}\t{fan}/{rest}\n100644 blob {blob}\t{commit}\n100755 blob {blob}\t{commit}\n120000 blob {blob}\tx\n\
             100644 blob {blob}\t../..\n160000 commit {blob}\t{commit}\n100644 blob {blob}\t\"a\\nb\"\n"
        );
        assert_eq!(entries(text.as_bytes()).keys().collect::<Vec<_>>(), [&commit]);
    }
}
