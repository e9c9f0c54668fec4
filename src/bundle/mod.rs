//! The bundle: the sidecar daemons of one bottle, and the runtimes that can run them.

mod original;
mod process;

use bottle_policy::{EgressInput, GateInput, GatePolicy, Policy};

pub use process::HostProcesses;

use crate::error::{Error, Result};
use crate::host::process::{Daemon, Pipe};
use crate::manifest::EgressChain;
use crate::state::{BottleDir, Journal};

/// What a bundle is started with.
#[derive(Debug)]
pub struct BundleSpec<'a> {
    /// Where its sockets, policy and logs go.
    pub dir: &'a BottleDir,
    /// What the agent may reach.
    pub policy: &'a Policy,
    /// Which program enforces it.
    pub chain: EgressChain,
    /// CA and token values, handed over by pipe.
    pub egress: EgressInput,
    /// git-gate, if the plan has a repository.
    pub gate: Option<GateSpec>,
    /// Whether the agent may ask.
    pub supervise: bool,
}

/// What git-gate is started with.
#[derive(Debug)]
pub struct GateSpec {
    /// What the agent may fetch and push.
    pub policy: GatePolicy,
    /// Keys and tokens, handed over by pipe.
    pub input: GateInput,
}

/// A way to run the daemons.
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
    daemons: Vec<Daemon>,
}

impl Bundle {
    /// Waits until every daemon answers on its socket.
    ///
    /// # Errors
    /// `Engine` when one ends or is not ready in time.
    pub async fn ready(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            daemon.first_line(process::READY).await?;
        }
        Ok(())
    }

    /// The conversation with the daemon of this name, once it is ready; it ends when this is
    /// dropped.
    pub fn take_pipe(&mut self, daemon: &str) -> Option<Pipe> {
        self.daemons.iter_mut().find(|d| d.name() == daemon).and_then(Daemon::take_pipe)
    }

    /// Waits until all of them are gone; they were told to end.
    pub async fn gone(&mut self) {
        for daemon in &mut self.daemons {
            daemon.kill().await;
        }
    }

    /// Waits for the first daemon that ends while the bottle runs: without it the bottle reaches
    /// nothing.
    pub async fn lost(&mut self) -> Error {
        let waits = self.daemons.iter_mut().map(|d| Box::pin(async move { d.lost().await }));
        futures_util::future::select_all(waits).await.0
    }
}
