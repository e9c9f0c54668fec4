//! What all runtimes of a bundle have in common.

use std::time::Duration;

use bottle_policy::{EgressInput, GateInput, GatePolicy, Policy};

use crate::error::{Error, Result};
use crate::host::process::{ControlPipe, Daemon};
use crate::manifest::EgressChain;
use crate::state::{BottleDir, Journal};

/// Longest time from a daemon's start to its ready line.
const READY_DEADLINE: Duration = Duration::from_secs(10);

/// Everything that a bundle needs to start.
#[derive(Debug)]
pub struct BundleSpec<'a> {
    /// The bottle's directory, for sockets, policy and logs.
    pub dir: &'a BottleDir,
    /// The hosts that the agent may reach.
    pub policy: &'a Policy,
    /// The programs that enforce it.
    pub chain: EgressChain,
    /// CA and token values, which are sent by pipe.
    pub egress: EgressInput,
    /// git-gate, if the plan has a repository.
    pub gate: Option<GateSpec>,
    /// Whether the agent may propose changes of its policy.
    pub supervise: bool,
}

/// Everything that git-gate needs to start.
#[derive(Debug)]
pub struct GateSpec {
    /// Repositories and refs that the agent may fetch and push.
    pub policy: GatePolicy,
    /// Keys and tokens, which are sent by pipe.
    pub input: GateInput,
}

/// A way to run the daemons. There is one today, processes of the host; one that uses containers is
/// to follow, which is why this is a trait.
pub trait BundleRuntime {
    /// Starts the daemons without waiting for them.
    ///
    /// # Errors
    /// `Engine` when one cannot be started; what was started is in the journal.
    fn spawn(
        &self,
        spec: BundleSpec<'_>,
        journal: &mut Journal,
    ) -> impl Future<Output = Result<Bundle>>;
}

/// Daemons that were started.
#[derive(Debug)]
pub struct Bundle {
    pub(super) daemons: Vec<Daemon>,
}

impl Bundle {
    /// Waits until every daemon answers on its socket.
    ///
    /// # Errors
    /// `Engine` when one ends or is not ready in time.
    pub async fn ready(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            daemon.ready_line(READY_DEADLINE).await?;
        }
        Ok(())
    }

    /// The control pipe of the daemon of this name, once it is ready. The daemon ends when it is
    /// dropped.
    pub fn take_control_pipe(&mut self, daemon: &str) -> Option<ControlPipe> {
        self.daemons.iter_mut().find(|d| d.name() == daemon).and_then(Daemon::take_control_pipe)
    }

    /// Kills all of them, which have been told to end, and waits until they are gone.
    pub async fn gone(&mut self) {
        for daemon in &mut self.daemons {
            daemon.kill().await;
        }
    }

    /// Waits for the first daemon that ends while the bottle runs, which is an error: without it the
    /// bottle reaches nothing.
    pub async fn lost(&mut self) -> Error {
        let waits = self.daemons.iter_mut().map(|d| Box::pin(async move { d.lost().await }));
        futures_util::future::select_all(waits).await.0
    }
}
