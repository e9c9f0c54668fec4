//! Another policy while the daemon runs: whoever replaces the file puts it in force.

use std::path::Path;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{EgressReport, Policy};

use super::live::LivePolicy;
use crate::daemon::policy_file::{self, Refused};
use crate::egress::audit::DAEMON;

/// Reads a policy file.
///
/// # Errors
/// One line: file, line, key and what is wrong.
pub fn read(path: &Path) -> Result<Policy, String> {
    policy_file::read(path, Policy::from_json)
}

/// Puts the policy at `path` in force, and reports the result to the audit log and the orchestrator.
pub fn apply(path: &Path, live: &LivePolicy, log: &AuditWriter) {
    let before = live.now().policy().digest();
    let applied = read(path).map_err(Refused::from).and_then(|policy| {
        let digest = policy.digest();
        if digest == before {
            return Ok(None);
        }
        match live.replace(policy) {
            Ok(()) => Ok(Some(digest)),
            Err(e) => {
                let why = format!("{}: {e}", path.display());
                Err(Refused { digest: Some(digest), why })
            }
        }
    });
    policy_file::report_reload(DAEMON, log, &before, applied, EgressReport::Reload);
}
