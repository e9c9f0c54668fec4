//! Daemons as confined processes of the host user.

use std::time::Duration;

use super::{Bundle, BundleRuntime, BundleSpec};
use crate::closure::Closure;
use crate::error::{Context, Kind, Result};
use crate::process::Program;
use crate::state::{Journal, write_private};

/// Longest time from a daemon's start to its answering socket.
pub(super) const READY: Duration = Duration::from_secs(10);

/// Runs the closure's `bottle-bundle` on the host; each daemon confines itself before it listens.
#[derive(Debug)]
pub struct HostProcesses<'a>(pub &'a Closure);

impl BundleRuntime for HostProcesses<'_> {
    async fn spawn(&self, spec: BundleSpec<'_>, journal: &mut Journal) -> Result<Bundle> {
        let policy = spec.dir.runtime().join("policy.json");
        let json = serde_json::to_vec_pretty(spec.policy).context(Kind::Internal, || "cannot write the policy".into())?;
        write_private(&policy, &json)?;
        let program = Program::new("egress", &self.0.bundle.binary.path)
            .arg("egress")
            .arg("--socket")
            .arg(spec.dir.daemon_socket("egress"))
            .arg("--policy")
            .arg(&policy)
            .arg("--audit")
            .arg(spec.dir.audit())
            .args(["--slug", spec.dir.slug(), "--parent", &std::process::id().to_string()]);
        let mut egress = program.spawn(&spec.dir.log("egress"), journal)?;
        egress.hand_over(&spec.egress).await?;
        Ok(Bundle { daemons: vec![egress] })
    }
}
