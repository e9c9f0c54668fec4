//! The line to the orchestrator: drafts out, what became of them in.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bottle_policy::{
    Ask, ProposalState, ProposalStatus, SuperviseCommand, SuperviseReport, UntrustedText,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::guards::{Guard, Guards};

/// Longest line that the orchestrator takes, bytes, with its end.
const LONGEST: usize = 4096;
/// For the orchestrator to take a draft.
const FILING: Duration = Duration::from_secs(10);
/// Drafts on their way at once.
const DRAFTS: usize = 16;
/// Proposals of this launch that are remembered.
const KNOWN: usize = 1024;

type Answer = Result<ProposalStatus, String>;

/// What this daemon knows of its proposals, and how it files others.
pub struct Line {
    out: mpsc::Sender<String>,
    calls: Mutex<(u64, HashMap<u64, oneshot::Sender<Answer>>)>,
    known: watch::Sender<BTreeMap<u32, ProposalStatus>>,
    waiting: Semaphore,
    longest: Duration,
    /// Guards of the whole daemon.
    pub guards: Guards,
}

impl Line {
    /// The line, and what goes out on it; `waiting` calls may wait for a decision at once, each at
    /// most `longest`.
    #[must_use]
    pub fn new(waiting: usize, longest: Duration) -> (Self, mpsc::Receiver<String>) {
        let (out, reports) = mpsc::channel(DRAFTS);
        let this = Self {
            out,
            calls: Mutex::default(),
            known: watch::Sender::default(),
            waiting: Semaphore::new(waiting),
            longest,
            guards: Guards::default(),
        };
        (this, reports)
    }

    /// Takes a line of the orchestrator's.
    pub fn told(&self, text: &[u8]) {
        match serde_json::from_slice(text) {
            Ok(SuperviseCommand::Filed { call, answer }) => {
                if let Ok(status) = &answer {
                    self.keep(status.clone());
                }
                let waits =
                    self.calls.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&call);
                if let Some(caller) = waits {
                    let _ = caller.send(answer); // it may have gone away
                }
            }
            Ok(SuperviseCommand::Changed(status)) => self.keep(status),
            Err(e) => tracing::error!("standard input: no command (column {})", e.column()),
        }
    }

    fn keep(&self, status: ProposalStatus) {
        self.known.send_modify(|known| {
            known.insert(status.id, status);
            while known.len() > KNOWN {
                known.pop_first();
            }
        });
    }

    /// Hands a draft to the orchestrator.
    ///
    /// # Errors
    /// Why there is no proposal, one line.
    pub async fn file(&self, ask: Ask, reason: UntrustedText) -> Answer {
        let (sender, answer) = oneshot::channel();
        let call = {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            if calls.1.len() >= DRAFTS {
                return Err("too many proposals at once; wait for the answers".to_owned());
            }
            calls.0 += 1;
            let call = calls.0;
            calls.1.insert(call, sender);
            call
        };
        let answered = self.hand_over(SuperviseReport::Draft { call, ask, reason }, answer).await;
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&call);
        answered
    }

    async fn hand_over(&self, draft: SuperviseReport, answer: oneshot::Receiver<Answer>) -> Answer {
        let mut line = serde_json::to_string(&draft).map_err(|e| e.to_string())?;
        line.push('\n');
        if self.guards.hold(Guard::Line) && line.len() >= LONGEST {
            return Err("this is too long; ask for less, or say it shorter".to_owned());
        }
        let gone = "the operator's side does not answer";
        let filed = async {
            self.out.send(line).await.map_err(|_| gone.to_owned())?;
            answer.await.map_err(|_| gone.to_owned())?
        };
        tokio::time::timeout(FILING, filed).await.map_err(|_| gone.to_owned())?
    }

    /// The proposal `id` of this launch; with `wait`, once somebody has decided, or after that
    /// time.
    pub async fn status(&self, id: u32, wait: Duration) -> Option<ProposalStatus> {
        let mut known = self.known.subscribe();
        let now = known.borrow().get(&id).cloned()?;
        let slot = self.waiting.try_acquire();
        if slot.is_err() && self.guards.hold(Guard::Waiting) {
            return Some(now);
        }
        let decided =
            known.wait_for(|k| k.get(&id).is_none_or(|s| s.state != ProposalState::Pending));
        let later = tokio::time::timeout(wait.min(self.longest), decided).await;
        later.ok().and_then(Result::ok).and_then(|k| k.get(&id).cloned()).or(Some(now))
    }

    /// All proposals of this launch.
    #[must_use]
    pub fn all(&self) -> Vec<ProposalStatus> {
        self.known.borrow().values().cloned().collect()
    }
}

/// Writes what goes out to standard output.
pub async fn report(mut reports: mpsc::Receiver<String>) {
    while let Some(line) = reports.recv().await {
        // Nobody there: then the caller is told so after a while.
        let _ = io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush());
    }
}
