//! The queue's files. Only the orchestrator writes them. Each file is replaced as a whole, so that
//! a crash leaves the old or the new one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bottle_policy::{GatePolicy, ProposalState};

use super::policy_change::with_git;
use super::proposal::{Effect, Proposal, Scope};
use crate::error::{Context, ErrorKind, Result};
use crate::host::fs::write_private;
use crate::state::BottleDir;

/// Most proposals that are kept. Older ones are removed when a launch begins.
const MAX_KEPT: usize = 500;

/// The proposals of one bottle.
#[derive(Debug)]
pub struct Queue {
    dir: PathBuf,
    all: BTreeMap<u32, Proposal>,
}

/// How the end of a launch interrupted a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// Nobody had decided.
    Undecided,
    /// It was decided, and its effect was not confirmed.
    Applying,
    /// It was in force.
    InForce,
}

impl Queue {
    /// Reads the proposals of `dir`. When the bottle is not `alive`, none is open or in force any
    /// more.
    ///
    /// # Errors
    /// `Config` when the directory cannot be read. A file that is not a proposal is skipped.
    pub fn read(dir: &BottleDir, alive: bool) -> Result<Self> {
        let mut queue = Self::read_all(dir, true)?;
        let left = if alive { Vec::new() } else { queue.interrupted() };
        for (mut proposal, left) in left {
            match (&mut proposal.decision, left) {
                (Some(d), Interrupted::Applying) if d.scope == Some(Scope::Save) => {
                    d.effect = Effect::Failed(
                        "the bottle ended before it was confirmed; its next launch tells"
                            .to_owned(),
                    );
                }
                (Some(d), _) => {
                    d.effect =
                        if d.scope == Some(Scope::Save) { Effect::Saved } else { Effect::Expired }
                }
                (None, _) => proposal.state = ProposalState::Expired,
            }
            queue.all.insert(proposal.id, proposal);
        }
        Ok(queue)
    }

    /// The documents as they are. With `own`, only those of this bottle under their own number.
    pub(crate) fn read_all(dir: &BottleDir, own: bool) -> Result<Self> {
        let path: PathBuf = dir.proposals().into();
        let entries = match std::fs::read_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { dir: path, all: BTreeMap::new() });
            }
            entries => {
                entries.context(ErrorKind::Io, || format!("cannot read {}", path.display()))?
            }
        };
        let mut all = BTreeMap::new();
        for entry in entries.flatten() {
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.strip_suffix(".json")?.parse::<u32>().ok())
            else {
                continue;
            };
            let read = std::fs::read(entry.path())
                .ok()
                .and_then(|text| serde_json::from_slice::<Proposal>(&text).ok());
            match read.filter(|p| !own || (p.id == id && p.bottle == dir.slug())) {
                Some(proposal) => drop(all.insert(id, proposal)),
                None => tracing::warn!("{} is no proposal of this bottle", entry.path().display()),
            }
        }
        Ok(Self { dir: path, all })
    }

    /// The proposals that the end of a launch interrupted.
    #[must_use]
    pub fn interrupted(&self) -> Vec<(Proposal, Interrupted)> {
        let left = |p: &Proposal| match (p.state, p.decision.as_ref().map(|d| &d.effect)) {
            (ProposalState::Pending, _) => Some((p.clone(), Interrupted::Undecided)),
            (_, Some(Effect::Applying)) => Some((p.clone(), Interrupted::Applying)),
            (_, Some(Effect::InForce(_))) => Some((p.clone(), Interrupted::InForce)),
            _ => None,
        };
        self.all.values().filter_map(left).collect()
    }

    /// Keeps the latest [`MAX_KEPT`].
    pub fn forget_oldest(&mut self) {
        while self.all.len() > MAX_KEPT {
            let Some((id, _)) = self.all.pop_first() else { break };
            let _ = std::fs::remove_file(self.dir.join(format!("{id}.json")));
        }
    }

    /// All of them, oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Proposal> {
        self.all.values()
    }

    /// The proposal of this number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&Proposal> {
        self.all.get(&id)
    }

    /// The undecided ones, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<Proposal> {
        self.all.values().filter(|p| p.state == ProposalState::Pending).cloned().collect()
    }

    /// `policy` with the git rules that were granted in this launch and still hold.
    #[must_use]
    pub fn with_git_grants(&self, policy: GatePolicy) -> GatePolicy {
        let held = self.all.values().filter(|p| {
            p.decision.as_ref().is_some_and(|d| matches!(d.effect, Effect::InForce(_)))
        });
        held.fold(policy, |policy, p| with_git(&policy, &p.ask).unwrap_or(policy))
    }

    /// The number of the next proposal. Files that are not proposals count as well.
    #[must_use]
    pub fn next_id(&self) -> u32 {
        let names = std::fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok());
        let highest =
            names.filter_map(|n| n.strip_suffix(".json")?.parse::<u32>().ok()).max().unwrap_or(0);
        highest.max(self.all.keys().next_back().copied().unwrap_or(0)).saturating_add(1)
    }

    /// Stores `proposal`, on disk before in memory.
    ///
    /// # Errors
    /// `Config` when it cannot be written; then nothing has changed.
    pub fn put(&mut self, proposal: Proposal) -> Result<()> {
        let json = serde_json::to_vec_pretty(&proposal)
            .context(ErrorKind::Internal, || "cannot write a proposal".into())?;
        write_private(self.dir.join(format!("{}.json", proposal.id)), &json)?;
        self.all.insert(proposal.id, proposal);
        Ok(())
    }
}
