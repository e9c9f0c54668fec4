//! What a bottle is doing, in one word: the same one in `bottle list`, on the dashboard and on the
//! page.

use serde::Serialize;

use super::bottle::{BottleDir, BottleStatus, Phase};

/// What a bottle is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BottleState {
    /// Its orchestrator sets it up.
    Starting,
    /// Its agent runs.
    Running,
    /// Its orchestrator tears it down.
    Stopping,
    /// It ended in order and left a disk: `bottle resume` can go on with it.
    Stopped,
    /// It ended in order and left nothing to resume.
    Exited,
    /// Its orchestrator died before the teardown was complete.
    Crashed,
}

impl BottleState {
    /// What the bottle in `dir` is doing, given its `status`.
    #[must_use]
    pub fn of(dir: &BottleDir, status: &BottleStatus) -> Self {
        match (status.alive, status.metadata.phase) {
            (true, Phase::Starting) => Self::Starting,
            (true, Phase::Running) => Self::Running,
            (true, _) => Self::Stopping,
            (false, Phase::Exited) if dir.resumable_disk().exists() => Self::Stopped,
            (false, Phase::Exited) => Self::Exited,
            (false, _) => Self::Crashed,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Exited => "exited",
            Self::Crashed => "crashed",
        }
    }
}
