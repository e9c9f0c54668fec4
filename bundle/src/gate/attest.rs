//! What the gate vouches for: a signed note about each branch that it forwards, pushed together with it. The agent's commits, and
//! so its clone, stay what they are.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::call::Call;
use super::commands::{Command, Head, Id};
use super::key::Key;
use super::refusal::{Refusal, Rule};
use super::repo::{LOCAL, Repo, ran};

/// Where the notes are, at the upstream.
pub const NOTES: &str = "refs/notes/bot-bottle";
/// What a signature is for (`ssh-keygen -Y verify -n`).
pub const NAMESPACE: &str = "bot-bottle-push";
/// Most bytes of the list of all notes.
const LIST: usize = 64 << 20;

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

    /// Writes the notes on what `head` pushes, by `git`, whose objects are the push's own.
    ///
    /// # Errors
    /// [`Rule::Upstream`], [`Rule::Host`].
    pub async fn notes(&self, repo: &Repo, git: &Call, head: &Head, policy: &str) -> Result<Notes, Refusal> {
        let old = theirs(repo).await?;
        let mut tree = match &old {
            Some(old) => {
                let call = git.again().args(["ls-tree", "-r", "--full-tree", old.as_str()]);
                flat(&String::from_utf8_lossy(&ran(call.run(Vec::new(), LIST, LOCAL).await, "read the notes")?.output))
            }
            None => String::new(),
        };
        for command in head.commands.iter().filter(|c| c.name.starts_with("refs/heads/")) {
            let text = self.text(repo, command, policy)?;
            let call = git.again().args(["hash-object", "-w", "-t", "blob", "--stdin"]);
            let blob = id(&ran(call.run(text.into_bytes(), 1 << 10, LOCAL).await, "write a note")?.output)?;
            let mine = format!("\t{}", command.new);
            tree = tree.lines().filter(|l| !l.ends_with(&mine)).fold(String::new(), |all, l| all + l + "\n");
            tree += &format!("100644 blob {blob}{mine}\n");
        }
        let made = ran(git.again().args(["mktree"]).run(tree.into_bytes(), 1 << 10, LOCAL).await, "write the notes")?;
        let tree = id(&made.output)?;
        let mut call = git.again().args(["commit-tree", tree.as_str(), "-m", "git-gate: attested"]);
        if let Some(old) = &old {
            call = call.args(["-p", old.as_str()]);
        }
        for who in ["AUTHOR", "COMMITTER"] {
            call = call.env(&format!("GIT_{who}_NAME"), "git-gate").env(&format!("GIT_{who}_EMAIL"), "git-gate@bot-bottle.invalid");
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
        Ok(format!("{message}{}", self.key.sign_message(NAMESPACE, message.as_bytes()).ok_or_else(failed)?))
    }
}

/// Whether the upstream has other notes by now than those that `notes` follow.
pub async fn moved(repo: &Repo, notes: Option<&Notes>) -> bool {
    let Some(notes) = notes else { return false };
    theirs(repo).await.is_ok_and(|now| now != notes.old)
}

/// The upstream's notes, brought into the mirror.
async fn theirs(repo: &Repo) -> Result<Option<Id>, Refusal> {
    let failed = |why: &dyn std::fmt::Display| Refusal::new(Rule::Upstream, format!("the upstream's notes cannot be had: {why}"));
    let url = repo.remote.url();
    let ask = repo.remote.reached_by(repo.git()).args(["ls-remote", "--", url, NOTES]);
    let ended = ask.run(Vec::new(), 1 << 16, LOCAL).await.map_err(|e| failed(&e))?;
    if !ended.status.success() {
        return Err(failed(&ended.reason()));
    }
    let Some(theirs) = ended.output.get(..40).and_then(Id::parse) else { return Ok(None) };
    let refspec = format!("+{NOTES}:{NOTES}");
    let fetch = ["fetch", "--quiet", "--no-tags", "--no-auto-maintenance", "--no-write-fetch-head", "--refmap=", "--", url, &refspec];
    let call = repo.remote.reached_by(repo.git().rw(&repo.mirror)).args(fetch);
    let ended = call.run(Vec::new(), 1 << 16, LOCAL).await.map_err(|e| failed(&e))?;
    if ended.status.success() { Ok(Some(theirs)) } else { Err(failed(&ended.reason())) }
}

/// Entries of any depth as one directory: the name of a note is its commit's.
fn flat(entries: &str) -> String {
    let line = |l: &str| l.split_once('\t').map(|(what, path)| format!("{what}\t{}\n", path.replace('/', "")));
    entries.lines().filter_map(line).collect::<Vec<_>>().concat()
}

fn id(output: &[u8]) -> Result<Id, Refusal> {
    output.get(..40).and_then(Id::parse).ok_or_else(|| Refusal::host("write a note", &"git names no object"))
}
