//! Another policy while the daemon runs: whoever replaces the file puts it in force.

use std::path::Path;

use bottle_policy::Policy;
use bottle_policy::audit::{AuditEvent, AuditVerdict, AuditWriter, Line};

use super::routes::Live;

/// Largest policy file, bytes.
const MAX: u64 = 4 << 20;

/// Reads a policy file.
///
/// # Errors
/// One line: file, line, key and what is wrong.
pub fn read(path: &Path) -> Result<Policy, String> {
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let size = std::fs::metadata(path).map_err(|e| at(&e))?.len();
    if size > MAX {
        return Err(at(&"larger than 4 MiB"));
    }
    let text = std::fs::read(path).map_err(|e| at(&e))?;
    Policy::from_json(&text).map_err(|e| at(&e))
}

/// Puts the policy at `path` in force, and says in the audit log what came of it.
pub fn apply(path: &Path, live: &Live, log: &AuditWriter) {
    let before = live.now().policy().digest();
    let applied = read(path).and_then(|policy| {
        let digest = policy.digest();
        if digest == before {
            return Ok(None);
        }
        live.replace(policy).map(|()| Some(digest)).map_err(|e| format!("{}: {e}", path.display()))
    });
    report("egress", log, &before, applied);
}

/// Writes the audit line of a reload: the new policy's digest, nothing when it is the old one, or
/// why that stays.
pub fn report(
    daemon: &str,
    log: &AuditWriter,
    before: &str,
    applied: Result<Option<String>, String>,
) {
    let (verdict, reason) = match applied {
        Ok(None) => return,
        Ok(Some(digest)) => {
            (AuditVerdict::Allow, format!("policy {digest} in force, was {before}"))
        }
        Err(why) => (AuditVerdict::Deny, format!("the policy {before} stays in force: {why}")),
    };
    tracing::info!("{reason}");
    let mut event = AuditEvent::new(daemon, "policy", verdict);
    event.reason = Some(reason);
    if let Err(e) = log.append(Line::Opening, event) {
        tracing::error!("{e}");
    }
}
