//! The policy file: it is read at the start, and again whenever it is replaced. Only what may be
//! pushed and what fetches get from an old mirror can change while the daemon runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bottle_policy::audit::AuditWriter;
use bottle_policy::{GatePolicy, GateReport, UpstreamName};

use crate::daemon::policy_file::{self, Refused};
use crate::git_gate::audit::DAEMON;
use crate::git_gate::push::upstream::{Upstream, UpstreamRules};

/// Reads a policy file.
///
/// # Errors
/// One line: file, line, key, and what is wrong.
pub fn read(path: &Path) -> Result<GatePolicy, String> {
    policy_file::read(path, GatePolicy::from_json)
}

/// Puts the rules in the file `path` in force, all of them or none, and reports the result to the
/// audit log and the orchestrator. `current` is the policy in force.
pub fn apply(
    path: &Path,
    current: &mut GatePolicy,
    upstreams: &BTreeMap<UpstreamName, Arc<Upstream>>,
    log: &AuditWriter,
) {
    let before = current.digest();
    let result = replace(path, current, upstreams);
    policy_file::report_reload(DAEMON, log, &before, result, GateReport::Reload);
}

/// Returns the digest of the new policy; `None` if it is the one in force.
fn replace(
    path: &Path,
    current: &mut GatePolicy,
    upstreams: &BTreeMap<UpstreamName, Arc<Upstream>>,
) -> Result<Option<String>, Refused> {
    let policy = read(path)?;
    let digest = policy.digest();
    if digest == current.digest() {
        return Ok(None);
    }
    let at = |why: &dyn std::fmt::Display| Refused {
        digest: Some(digest.clone()),
        why: format!("{}: {why}", path.display()),
    };
    if let Some(why) = current.not_reloadable(&policy) {
        return Err(at(&why));
    }
    let rules = policy.upstreams.iter().map(|u| {
        let rules = UpstreamRules::new(u, (&policy.agent, &policy.slug), digest.clone());
        Ok((&u.name, rules.map_err(|e| at(&e))?))
    });
    for (name, rules) in rules.collect::<Result<Vec<_>, Refused>>()? {
        if let Some(upstream) = upstreams.get(name) {
            upstream.replace_rules(rules);
        }
    }
    *current = policy;
    Ok(Some(digest))
}
