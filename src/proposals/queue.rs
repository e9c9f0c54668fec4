//! The queue's files. One writer, the orchestrator; each file is replaced as a whole, so that whoever dies leaves the old or the
//! new one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bottle_policy::{GatePolicy, ProposalState};

use super::{Effect, Proposal, with_git};
use crate::error::{Context, Kind, Result};
use crate::state::{BottleDir, private_dir, write_private};

/// Proposals that are kept; older ones are forgotten when a launch begins.
const KEPT: usize = 500;

/// The proposals of one bottle.
#[derive(Debug)]
pub struct Queue {
    dir: PathBuf,
    all: BTreeMap<u32, Proposal>,
}

impl Queue {
    /// Reads the proposals of `dir`. Of a bottle that is not `alive` nothing is pending any more.
    ///
    /// # Errors
    /// `Config` when the directory cannot be read. A file that is no proposal is passed over.
    pub fn read(dir: &BottleDir, alive: bool) -> Result<Self> {
        let path = dir.proposals();
        let entries = match std::fs::read_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self { dir: path, all: BTreeMap::new() }),
            entries => entries.context(Kind::Config, || format!("cannot read {}", path.display()))?,
        };
        let mut all = BTreeMap::new();
        for entry in entries.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|n| n.strip_suffix(".json")?.parse::<u32>().ok()) else { continue };
            let read = std::fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice::<Proposal>(&text).ok());
            match read.filter(|p| p.id == id && p.bottle == dir.slug()) {
                Some(mut proposal) => {
                    if proposal.state == ProposalState::Pending && !alive {
                        proposal.state = ProposalState::Expired;
                    }
                    all.insert(id, proposal);
                }
                None => tracing::warn!("{} is no proposal of this bottle", entry.path().display()),
            }
        }
        Ok(Self { dir: path, all })
    }

    /// The same for the orchestrator of a launch that begins: what an earlier launch left open is expired, also on disk.
    ///
    /// # Errors
    /// As [`Queue::read`], and when it cannot be written.
    pub fn take_over(dir: &BottleDir) -> Result<Self> {
        private_dir(&dir.proposals())?;
        let mut queue = Self::read(dir, true)?;
        for mut proposal in queue.pending() {
            proposal.state = ProposalState::Expired;
            queue.put(proposal)?;
        }
        // What was in force ended with its launch.
        let held = |p: &&Proposal| p.decision.as_ref().is_some_and(|d| matches!(d.effect, Effect::InForce(_) | Effect::Applying));
        for mut proposal in queue.all.values().filter(held).cloned().collect::<Vec<_>>() {
            if let Some(d) = &mut proposal.decision {
                d.effect = Effect::Over;
            }
            queue.put(proposal)?;
        }
        while queue.all.len() > KEPT {
            let Some((id, _)) = queue.all.pop_first() else { break };
            let _ = std::fs::remove_file(queue.dir.join(format!("{id}.json")));
        }
        Ok(queue)
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

    /// Those that nobody has decided, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<Proposal> {
        self.all.values().filter(|p| p.state == ProposalState::Pending).cloned().collect()
    }

    /// `policy` with what was granted to git in this launch and holds still.
    #[must_use]
    pub fn with_git_grants(&self, policy: GatePolicy) -> GatePolicy {
        let held = self.all.values().filter(|p| p.decision.as_ref().is_some_and(|d| matches!(d.effect, Effect::InForce(_))));
        held.fold(policy, |policy, p| with_git(&policy, &p.ask).unwrap_or(policy))
    }

    /// The number of the next one. A file that is no proposal has a number too.
    #[must_use]
    pub fn next_id(&self) -> u32 {
        let names = std::fs::read_dir(&self.dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
        let highest = names.filter_map(|n| n.strip_suffix(".json")?.parse::<u32>().ok()).max().unwrap_or(0);
        highest.max(self.all.keys().next_back().copied().unwrap_or(0)).saturating_add(1)
    }

    /// Writes `proposal`, on disk first.
    ///
    /// # Errors
    /// `Config` when it cannot be written; then nothing has changed.
    pub fn put(&mut self, proposal: Proposal) -> Result<()> {
        let json = serde_json::to_vec_pretty(&proposal).context(Kind::Internal, || "cannot write a proposal".into())?;
        write_private(&self.dir.join(format!("{}.json", proposal.id)), &json)?;
        self.all.insert(proposal.id, proposal);
        Ok(())
    }
}
