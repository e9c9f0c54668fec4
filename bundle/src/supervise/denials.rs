//! What was refused recently, and the smallest route that would have let it through.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use bottle_policy::PathPattern;
use bottle_policy::audit::{AuditRecord, AuditVerdict};
use serde_json::{Value, json};

/// How much of each log is read, from its end, in bytes.
const TAIL_BYTES: u64 = 256 << 10;

/// The last `max` refusals in `logs`, the oldest first. Equal ones are listed once, with a count.
#[must_use]
pub fn last(logs: &[impl AsRef<Path>], max: usize) -> Vec<Value> {
    let mut seen: BTreeMap<String, (AuditRecord, u32)> = BTreeMap::new();
    for record in logs.iter().flat_map(|log| records(log.as_ref()).unwrap_or_default()) {
        let w = &record.what;
        let key =
            format!("{:?}", (&w.daemon, &w.rule, &w.method, &w.host, w.port, &w.path, &w.route));
        let times = seen.get(&key).map_or(0, |(_, n)| *n);
        seen.insert(key, (record, times + 1));
    }
    let mut all: Vec<_> = seen.into_values().collect();
    all.sort_by(|a, b| a.0.time.cmp(&b.0.time));
    let first = all.len().saturating_sub(max);
    all.split_off(first).iter().map(|(record, times)| explain(record, *times)).collect()
}

fn records(log: &Path) -> io::Result<Vec<AuditRecord>> {
    let mut file = File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut text)?;
    let lines = text.split(|b| *b == b'\n').skip(usize::from(start > 0));
    // The launch's self-test asks for this host before the agent starts.
    let by_agent = |r: &AuditRecord| r.what.host.as_deref() != Some("denied.bottle.invalid");
    let denied = |r: &AuditRecord| {
        r.what.verdict == AuditVerdict::Deny
            && !matches!(r.what.event.as_str(), "policy" | "suppressed" | "spent")
    };
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .filter(denied)
        .filter(by_agent)
        .collect())
}

fn explain(record: &AuditRecord, times: u32) -> Value {
    let w = &record.what;
    let mut out = json!({ "time": record.time, "by": w.daemon, "times": times });
    let fields = [
        ("method", &w.method),
        ("host", &w.host),
        ("path", &w.path),
        ("rule", &w.rule),
        ("reason", &w.reason),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            out[name] = json!(value);
        }
    }
    match smallest(record) {
        Some(route) => out["propose_route"] = route,
        None => {
            if let Some(hint) = &w.hint {
                out["hint"] = json!(hint);
            }
        }
    }
    out
}

/// Arguments for `propose_route`. A CONNECT names only the host, so methods and paths are left to
/// the agent.
fn smallest(record: &AuditRecord) -> Option<Value> {
    let w = &record.what;
    if !matches!(w.rule.as_deref(), Some("no-route" | "not-allowed")) {
        return None;
    }
    let (host, port) = (w.host.as_ref()?, w.port?);
    let mut route = json!({ "host": host, "port": port });
    if w.hint.as_ref().is_some_and(|h| h.contains("tls = false")) {
        route["tls"] = json!(false);
    }
    match (w.method.as_deref(), &w.path) {
        (Some(method), Some(path)) if method != "CONNECT" => {
            route["methods"] = json!([method]);
            route["paths"] = json!([pattern(path)]);
        }
        _ => {
            route["methods"] = json!("the methods that you need, such as [\"GET\"]");
            route["paths"] = json!("the paths that you need, such as [\"/v1/*\"]");
        }
    }
    Some(route)
}

/// A pattern for `path`: the path itself, or its nearest parent that can be written as a pattern.
fn pattern(path: &str) -> String {
    let literal = |p: &str| !p.contains(['*', '…']) && p.parse::<PathPattern>().is_ok();
    if literal(path) {
        return path.to_owned();
    }
    let mut above = path;
    while let Some((dir, _)) = above.rsplit_once('/') {
        if !dir.is_empty() && literal(dir) {
            return format!("{dir}/*");
        }
        above = dir;
    }
    "/*".to_owned()
}

#[cfg(test)]
mod tests {
    use bottle_policy::audit::{AuditEvent, AuditWriter, Line};

    use super::*;

    #[test]
    fn each_refusal_is_listed_once_with_the_smallest_route() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit");
        let writer = AuditWriter::open(&log, "egress").unwrap();
        let refused = |method: &str, path: Option<&str>, rule: &str| {
            let mut e = AuditEvent::new("egress", "refused", AuditVerdict::Deny);
            e.method = Some(method.into());
            (e.host, e.port, e.path) = (Some("api.test".into()), Some(443), path.map(Into::into));
            (e.rule, e.hint) = (Some(rule.into()), Some("a hint".into()));
            writer.append(Line::Refusal, e).unwrap();
        };
        refused("CONNECT", None, "no-route");
        refused("GET", Some("/a/b"), "not-allowed");
        refused("GET", Some("/a/b"), "not-allowed");
        refused("GET", Some("/a/x*y/z"), "not-allowed");
        refused("POST", Some("/a"), "secret");
        writer
            .append(Line::Opening, AuditEvent::new("egress", "request", AuditVerdict::Allow))
            .unwrap();
        let found = last(&[&log, &dir.path().join("no-such-log")], 10);
        let by = |i: usize, p: &str| found[i].pointer(p).cloned().unwrap_or_default();
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(by(0, "/propose_route/host"), "api.test");
        assert!(by(0, "/propose_route/methods").is_string());
        assert_eq!((by(1, "/times"), by(1, "/propose_route/paths/0")), (json!(2), json!("/a/b")));
        assert_eq!(
            by(2, "/propose_route/paths/0"),
            "/a/*",
            "a star that the guest sent is not a wildcard"
        );
        assert_eq!((by(3, "/propose_route"), by(3, "/hint")), (Value::Null, json!("a hint")));
        assert_eq!(last(&[&log], 1).len(), 1);
    }
}
