//! The policies of the other daemons, and their audit logs, which this daemon may read.

use std::path::PathBuf;

use bottle_policy::{GatePolicy, Policy};

use crate::daemon::policy_file;

/// Files of the other daemons.
#[derive(Debug, Clone, clap::Args)]
pub struct PolicyFiles {
    /// egress' policy, JSON.
    #[arg(long)]
    pub policy: PathBuf,
    /// git-gate's policy, JSON.
    #[arg(long)]
    pub git_policy: Option<PathBuf>,
    /// Audit logs of the other daemons.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub audit: Vec<PathBuf>,
}

impl PolicyFiles {
    /// egress' policy. It is read anew each time, because it changes while the daemon runs.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn egress(&self) -> Result<Policy, String> {
        policy_file::read(&self.policy, Policy::from_json).map_err(unreadable)
    }

    /// git-gate's policy, if there is a git-gate.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn git_gate(&self) -> Result<Option<GatePolicy>, String> {
        let path = self.git_policy.as_ref();
        path.map(|path| policy_file::read(path, GatePolicy::from_json).map_err(unreadable))
            .transpose()
    }
}

/// The error for the agent. It must not show `why`, which names a path of the host.
fn unreadable(why: String) -> String {
    tracing::error!("{why}");
    "the policy cannot be read (see supervise's log on the host)".to_owned()
}
