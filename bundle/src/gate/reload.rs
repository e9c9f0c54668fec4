//! Other rules while the daemon runs: what may be pushed, and whether an old mirror is served.
//! Upstreams and the ways to them stay.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{GatePolicy, UpstreamName};

use super::repo::{Repo, Rules};
use super::ticket;
use crate::daemon::policy_file::audit_reload as report;

/// Largest policy file, bytes.
const MAX: u64 = 4 << 20;

/// Reads a policy file.
///
/// # Errors
/// One line: file, line, key and what is wrong.
pub fn read(path: &Path) -> Result<GatePolicy, String> {
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    if std::fs::metadata(path).map_err(|e| at(&e))?.len() > MAX {
        return Err(at(&"larger than 4 MiB"));
    }
    GatePolicy::from_json(&std::fs::read(path).map_err(|e| at(&e))?).map_err(|e| at(&e))
}

/// Puts the rules at `path` in force, all or none, and says in the audit log what came of it. What
/// is being pushed ends under the rules that it began with.
pub fn apply(
    path: &Path,
    in_force: &mut GatePolicy,
    repos: &BTreeMap<UpstreamName, Arc<Repo>>,
    log: &AuditWriter,
) {
    let before = in_force.digest();
    let applied = read(path).and_then(|policy| {
        let digest = policy.digest();
        if digest == before {
            return Ok(None);
        }
        let at = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        if let Some(why) = in_force.not_reloadable(&policy) {
            return Err(at(&why));
        }
        let rules = policy.upstreams.iter().map(|u| {
            Ok((
                &u.name,
                Rules::new(u, (&policy.agent, &policy.slug), digest.clone()).map_err(|e| at(&e))?,
            ))
        });
        for (name, rules) in rules.collect::<Result<Vec<_>, String>>()? {
            if let Some(repo) = repos.get(name) {
                repo.replace_rules(rules);
            }
        }
        *in_force = policy;
        Ok(Some(digest))
    });
    report(ticket::DAEMON, log, &before, applied);
}
