//! A route's scan settings and its limits.

use std::collections::BTreeMap;

use bottle_policy::{Action, Budget, Scan, Timeouts};

use super::quote;
use super::walk::Val;
use super::{ByteSize, Interval};

/// Shortest and longest time that a route may wait.
const TIMEOUTS: (Interval, Interval) = (Interval::seconds(1), Interval::seconds(7 * 24 * 3600));

/// Most rules that a route names.
const MOST_RULES: usize = 256;

const ACTIONS: [(&str, Action); 4] = [
    ("off", Action::Off),
    ("warn", Action::Warn),
    ("redact", Action::Redact),
    ("block", Action::Block),
];

/// `"block"`, `"warn"`, `"off"`, or a table of the details.
pub(super) fn scan(v: &Val<'_>) -> Option<Scan> {
    if !v.is_table() {
        let words = [("block", Action::Block), ("warn", Action::Warn), ("off", Action::Off)];
        return Some(Scan { limit: limit(v.choice(&words)?), ..Scan::default() });
    }
    let t = v.table()?;
    let most = t.opt("limit").map_or(Some(None), |v| v.choice(&ACTIONS).map(limit));
    let rules = t.opt("rules").map_or(Some(BTreeMap::new()), |v| rules(&v));
    let responses = t.opt("responses").map_or(Some(false), |v| v.bool());
    t.finish();
    Some(Scan { limit: most?, rules: rules?, responses: responses? })
}

/// Blocking is the strongest action, so it limits nothing.
fn limit(action: Action) -> Option<Action> {
    (action != Action::Block).then_some(action)
}

fn rules(v: &Val<'_>) -> Option<BTreeMap<String, Action>> {
    let t = v.table()?;
    let mut out = BTreeMap::new();
    let mut whole = true;
    for (id, at, action) in t.entries(MOST_RULES) {
        let known_form = (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !known_form {
            t.src.faults.push(
                &at,
                &action.path,
                format!(
                    "not a rule's id: {} (letters, digits, -, _ and ., at most 64)",
                    quote(&id)
                ),
                None,
            );
        }
        match (known_form, action.choice(&ACTIONS)) {
            (true, Some(action)) => drop(out.insert(id, action)),
            _ => whole = false,
        }
    }
    whole.then_some(out)
}

/// `"50MB"` is what goes up; `{ up = …, down = … }` says both.
pub(super) fn budget(v: &Val<'_>) -> Option<Budget> {
    if !v.is_table() {
        return Some(Budget { up: Some(some(v)?), ..Budget::default() });
    }
    let t = v.table()?;
    let (up, down) = (t.opt("up"), t.opt("down"));
    t.finish();
    if up.is_none() && down.is_none() {
        return v.none(
            format!("`{}` needs up, down or both", v.path),
            Some("such as { up = \"50MB\", down = \"2GB\" }".to_owned()),
        );
    }
    let read = |v: Option<Val<'_>>| v.map_or(Some(None), |v| some(&v).map(Some));
    let (up, down) = (read(up), read(down));
    Some(Budget { up: up?, down: down?, ..Budget::default() })
}

/// An amount above zero. A request's target counts too, so a budget of zero would let nothing
/// through.
fn some(v: &Val<'_>) -> Option<u64> {
    match v.amount()?.get() {
        0 => v.none(
            format!("`{}` lets nothing through", v.path),
            Some("leave the route out instead".to_owned()),
        ),
        n => Some(n),
    }
}

/// `{ first_byte = "15m", idle = "5m", total = "2h" }`, each of which may be absent.
pub(super) fn timeouts(v: &Val<'_>) -> Option<Timeouts> {
    let t = v.table()?;
    let read = |key| t.opt(key).map_or(Some(None), |v| seconds(&v).map(Some));
    let (first_byte, idle, total) = (read("first_byte"), read("idle"), read("total"));
    t.finish();
    Some(Timeouts { first_byte: first_byte?, idle: idle?, total: total? })
}

fn seconds(v: &Val<'_>) -> Option<u32> {
    let (least, most) = TIMEOUTS;
    match v.parse::<Interval>()? {
        time if (least..=most).contains(&time) => u32::try_from(time.duration().as_secs()).ok(),
        time => {
            v.none(format!("`{}` must be between {least} and {most}, not {time}", v.path), None)
        }
    }
}

/// Bytes of one request's body; 0: only requests without one.
pub(super) fn max_body(v: &Val<'_>) -> Option<u64> {
    v.amount().map(ByteSize::get)
}
