//! The link to the orchestrator: drafts of proposals go out, decisions come in.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bottle_policy::{
    Ask, ProposalState, ProposalStatus, SuperviseCommand, SuperviseReport, UntrustedText,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::checks::{Check, Checks};
use crate::daemon::report;

/// Longest line that the orchestrator accepts, in bytes, with its newline.
const MAX_LINE_BYTES: usize = 4096;
/// Time for the orchestrator to accept a draft.
const FILING_TIME: Duration = Duration::from_secs(10);
/// Most drafts that wait for the orchestrator at once.
const MAX_DRAFTS: usize = 16;
/// Most proposals of this launch that are remembered.
const MAX_KNOWN: usize = 1024;

/// The orchestrator's answer to a draft: the new proposal, or why there is none, in one line.
type FilingResult = Result<ProposalStatus, String>;

/// Files proposals, and knows the status of those that were filed.
pub struct OrchestratorLink {
    out: mpsc::Sender<String>,
    calls: Mutex<OpenCalls>,
    known: watch::Sender<BTreeMap<u32, ProposalStatus>>,
    waiting: Semaphore,
    max_wait: Duration,
    /// The checks of the whole daemon.
    pub checks: Checks,
}

/// Drafts that the orchestrator has not answered yet.
#[derive(Default)]
struct OpenCalls {
    last: u64,
    senders: HashMap<u64, oneshot::Sender<FilingResult>>,
}

impl OrchestratorLink {
    /// The link, and the lines to write to the orchestrator. At most `max_waiting` calls wait for a
    /// decision at once, each at most `max_wait`.
    #[must_use]
    pub fn new(max_waiting: usize, max_wait: Duration) -> (Self, mpsc::Receiver<String>) {
        let (out, lines) = mpsc::channel(MAX_DRAFTS);
        let this = Self {
            out,
            calls: Mutex::default(),
            known: watch::Sender::default(),
            waiting: Semaphore::new(max_waiting),
            max_wait,
            checks: Checks::default(),
        };
        (this, lines)
    }

    /// Handles a line from the orchestrator.
    pub fn receive(&self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(SuperviseCommand::Filed { call, answer }) => {
                if let Ok(status) = &answer {
                    self.remember(status.clone());
                }
                if let Some(caller) = self.open_calls().senders.remove(&call) {
                    let _ = caller.send(answer); // the caller may be gone
                }
            }
            Ok(SuperviseCommand::Changed(status)) => self.remember(status),
            Err(e) => tracing::error!("standard input: no command (column {})", e.column()),
        }
    }

    fn open_calls(&self) -> std::sync::MutexGuard<'_, OpenCalls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, status: ProposalStatus) {
        self.known.send_modify(|known| {
            known.insert(status.id, status);
            while known.len() > MAX_KNOWN {
                known.pop_first();
            }
        });
    }

    /// Files a proposal with the orchestrator.
    ///
    /// # Errors
    /// One line: why there is no proposal.
    pub async fn file(&self, ask: Ask, reason: UntrustedText) -> FilingResult {
        let (sender, answer) = oneshot::channel();
        let call = {
            let mut calls = self.open_calls();
            if calls.senders.len() >= MAX_DRAFTS {
                return Err("too many proposals at once; wait for the answers".to_owned());
            }
            calls.last += 1;
            let call = calls.last;
            calls.senders.insert(call, sender);
            call
        };
        let result = self.send_draft(SuperviseReport::Draft { call, ask, reason }, answer).await;
        self.open_calls().senders.remove(&call);
        result
    }

    async fn send_draft(
        &self,
        draft: SuperviseReport,
        answer: oneshot::Receiver<FilingResult>,
    ) -> FilingResult {
        let line = serde_json::to_string(&draft).map_err(|e| e.to_string())?;
        if self.checks.enabled(Check::LineLength) && line.len() + 1 >= MAX_LINE_BYTES {
            return Err("this is too long; ask for less, or say it shorter".to_owned());
        }
        let gone = "the operator's side does not answer";
        let filed = async {
            self.out.send(line).await.map_err(|_| gone.to_owned())?;
            answer.await.map_err(|_| gone.to_owned())?
        };
        timeout(FILING_TIME, filed).await.map_err(|_| gone.to_owned())?
    }

    /// The status of proposal `id` of this launch. If it is pending, waits at most `wait` for a
    /// decision.
    pub async fn status(&self, id: u32, wait: Duration) -> Option<ProposalStatus> {
        let mut known = self.known.subscribe();
        let now = known.borrow().get(&id).cloned()?;
        let slot = self.waiting.try_acquire();
        if slot.is_err() && self.checks.enabled(Check::Waiting) {
            return Some(now);
        }
        let decided =
            known.wait_for(|k| k.get(&id).is_none_or(|s| s.state != ProposalState::Pending));
        let later = timeout(wait.min(self.max_wait), decided).await;
        later.ok().and_then(Result::ok).and_then(|k| k.get(&id).cloned()).or(Some(now))
    }

    /// The proposals of this launch.
    #[must_use]
    pub fn all(&self) -> Vec<ProposalStatus> {
        self.known.borrow().values().cloned().collect()
    }
}

/// Writes lines to the orchestrator.
pub async fn write_lines(mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        // If nobody reads them, the caller of each draft is told so after a while.
        let _ = report::line(&line);
    }
}
