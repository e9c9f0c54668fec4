//! The proposal broker: one task of the orchestrator, where a running bottle's proposals arrive and
//! are decided. It alone writes the queue and its audit log.
//!
//! A decision is on disk and in the audit log before it has an effect. When the orchestrator dies,
//! the bottle dies with it, and so does every effect.

use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{ProposalState, SuperviseCommand, SuperviseReport};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::outcome::{DecisionRequest, Rejection};
use super::proposal::DecisionOutcome;
use super::state::{BrokerState, MAX_QUEUED_COMMANDS};
use crate::checks::Checks;
use crate::error::Result;
use crate::host::process::{CommandWriter, ControlPipe, ReportReader};
use crate::live_policy::PolicySwitch;
use crate::plan::LaunchPlan;
use crate::state::BottleDir;

/// The running broker. Closing it leaves nothing pending.
pub(crate) struct ProposalBroker {
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl ProposalBroker {
    /// Serves the daemon behind `pipe` and the operators who decide, whose grants go through
    /// `policies`.
    ///
    /// # Errors
    /// The queue or its audit log cannot be opened.
    pub(crate) fn start(
        pipe: ControlPipe,
        dir: &BottleDir,
        plan: Arc<LaunchPlan>,
        policies: Arc<PolicySwitch>,
        decisions: mpsc::Receiver<DecisionRequest>,
    ) -> Result<Self> {
        let (daemon, commands) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let state = BrokerState::new(dir, plan, policies, daemon, Checks::on())?;
        let (drafts, arriving) = mpsc::channel(16);
        let (end, ending) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = run(state, arriving, decisions, ending) => {}
                // When the daemon closes its pipe it has ended, and the launch notices that by
                // itself.
                () = async { receive(pipe.reports, drafts).await; std::future::pending().await } => {}
                () = async { send(pipe.commands, commands).await; std::future::pending().await } => {}
            }
        });
        Ok(Self { task, end })
    }

    /// Ends it. What is pending expires.
    pub(crate) async fn close(self) {
        let _ = self.end.send(());
        let _ = tokio::time::timeout(Duration::from_secs(3), self.task).await;
    }
}

async fn receive(mut reports: ReportReader, drafts: mpsc::Sender<SuperviseReport>) {
    while let Some(line) = reports.next().await {
        match serde_json::from_slice(&line) {
            Ok(draft) => drop(drafts.send(draft).await),
            Err(e) => tracing::debug!("not a report: {e}"),
        }
    }
}

/// Sends the queued commands to the daemon, so that a decision does not wait for it.
async fn send(mut pipe: CommandWriter, mut commands: mpsc::Receiver<SuperviseCommand>) {
    while let Some(command) = commands.recv().await {
        if let Err(e) = pipe.send(&command).await {
            tracing::debug!("{e:#}");
            return;
        }
    }
}

/// Handles drafts, decisions and expiries one at a time, so that each decision is made once.
pub(super) async fn run(
    mut state: BrokerState,
    mut drafts: mpsc::Receiver<SuperviseReport>,
    mut decisions: mpsc::Receiver<DecisionRequest>,
    mut ending: oneshot::Receiver<()>,
) {
    loop {
        let due = state.due();
        tokio::select! {
                        draft = drafts.recv() => match draft {
                            Some(SuperviseReport::Draft { call, ask, reason }) => {
                                let answer = state.submit(ask, reason).await;
                                state.tell(SuperviseCommand::Filed { call, answer });
                            }
                            None => return,
                        },
                        Some(DecisionRequest { decide, uid, outcome }) = decisions.recv() => {
                            let decided = match state.decide(decide, uid).await {
                                Ok(answer) => answer,
                                Err(Rejection { reason, hint }) => {
         DecisionOutcome::Refused { why: reason, hint }
        }
                            };
                            let _ = outcome.send(decided); // the client may be gone; it is decided
                        }
                        () = tokio::time::sleep(due) => state.sweep().await,
                        _ = &mut ending => break,
                    }
    }
    for proposal in state.queue.pending() {
        state.end(proposal, ProposalState::Expired, "the bottle ended").await;
    }
    let _ = state.log.finish();
}
