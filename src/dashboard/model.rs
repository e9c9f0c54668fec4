//! What the dashboard and the web page show: bottles, proposals and the latest audit lines. It
//! reads files and waits for nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bottle_policy::audit::AuditRecord;
use bottle_policy::{Ask, ProposalState, RouteAsk};
use serde::Serialize;

use super::usage::{Processes, UsageMeter};
use crate::error::Result;
use crate::live_policy::{LivePolicies, in_force};
use crate::logs::follow::LineFollower;
use crate::logs::render::{Colours, render, unreadable};
use crate::state::{BottleDir, BottleState, Roots, now_ms};
use crate::supervise::{Proposal, Queue, Tone, lines};

/// Audit lines that are kept.
pub(super) const MAX_LOG_LINES: usize = 10_000;
/// How much of a log's end is read at first, in bytes.
const TAIL_BYTES: u64 = 4 << 20;

/// One bottle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct BottleRow {
    pub name: String,
    pub agent: String,
    pub engine: String,
    pub state: BottleState,
    pub started_ms: u64,
    /// Percent of one processor since the last measurement.
    pub cpu: f32,
    /// Resident memory of its orchestrator and all processes below it, in bytes.
    pub memory: u64,
    pub pending: usize,
}

/// One proposal, as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ProposalRow {
    pub bottle: String,
    pub id: u32,
    pub state: ProposalState,
    pub made_ms: u64,
    pub summary: String,
    /// True while it can be decided.
    pub open: bool,
    /// For a wide proposal, the host or repository that must be typed to approve it.
    pub host: Option<String>,
    /// The route it asks for, if any, which can be narrowed.
    pub route: Option<RouteAsk>,
    /// For a question, its choices.
    pub choices: Option<Vec<String>>,
    /// True when it can be approved for one request.
    pub once: bool,
    /// True when it can only be approved with `save`.
    pub save_only: bool,
    /// Digest of the policy that `lines` compares with.
    pub against: String,
    /// The proposal in full: each line's tone and text.
    pub lines: Vec<(&'static str, String)>,
}

/// One audit line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct LogLine {
    #[serde(serialize_with = "name")]
    pub bottle: Arc<str>,
    pub text: String,
}

fn name<S: serde::Serializer>(name: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(name)
}

impl LogLine {
    /// True when it contains `filter` (lower case), whatever the case.
    pub(super) fn contains(&self, filter: &str) -> bool {
        filter.is_empty()
            || contains_ignoring_case(self.bottle.as_bytes(), filter)
            || contains_ignoring_case(self.text.as_bytes(), filter)
    }
}

/// Allocates nothing, because each key searches 10 000 lines.
fn contains_ignoring_case(text: &[u8], filter: &str) -> bool {
    let filter = filter.as_bytes();
    let first = filter[0];
    let last = text.len().checked_sub(filter.len());
    last.is_some_and(|last| {
        (0..=last).any(|i| {
            text[i].to_ascii_lowercase() == first
                && text[i..i + filter.len()].eq_ignore_ascii_case(filter)
        })
    })
}

/// Everything there is to show.
pub(super) struct DashboardModel {
    roots: Roots,
    /// By name.
    pub bottles: Vec<BottleRow>,
    /// Open ones first, then the latest.
    pub proposals: Vec<ProposalRow>,
    /// Oldest first.
    pub lines: VecDeque<LogLine>,
    /// How many lines there have been in all.
    pub written: u64,
    logs: BTreeMap<PathBuf, (Arc<str>, LineFollower)>,
    /// For each bottle: when its proposals last changed, whether it was alive, and the proposals.
    queues: HashMap<String, (Option<SystemTime>, bool, Vec<Proposal>)>,
    meter: UsageMeter,
}

impl DashboardModel {
    pub(super) fn new(roots: Roots) -> Self {
        Self {
            roots,
            bottles: Vec::new(),
            proposals: Vec::new(),
            lines: VecDeque::new(),
            written: 0,
            logs: BTreeMap::new(),
            queues: HashMap::new(),
            meter: UsageMeter::default(),
        }
    }

    /// Reads everything again; true when something is different. With `measure`, also measures
    /// processor time and memory, which costs more.
    pub(super) fn refresh(&mut self, measure: bool) -> Result<bool> {
        let (mut bottles, mut proposals) = (Vec::new(), Vec::new());
        let tree = measure.then(Processes::read);
        for dir in self.roots.bottles()? {
            let Some(status) = dir.status() else { continue };
            let m = &status.metadata;
            let state = BottleState::of(&dir, &status);
            let rows = self.proposals_of(&dir, status.alive);
            let before = self.bottles.iter().find(|b| b.name == m.slug);
            let (cpu, memory) = match &tree {
                Some(tree) if status.alive => self.meter.measure(&m.slug, m.pid, tree),
                Some(_) => (0.0, 0),
                None => before.map_or((0.0, 0), |b| (b.cpu, b.memory)),
            };
            let pending = rows.iter().filter(|p| p.open).count();
            let (name, agent, engine) = (m.slug.clone(), m.agent.clone(), m.engine.clone());
            bottles.push(BottleRow {
                name,
                agent,
                engine,
                state,
                started_ms: m.started_ms,
                cpu,
                memory,
                pending,
            });
            proposals.extend(rows);
            for log in dir.audits() {
                let follower = || LineFollower::from_end(log.as_ref(), TAIL_BYTES);
                self.logs
                    .entry(log.clone().into())
                    .or_insert_with(|| (m.slug.as_str().into(), follower()));
            }
        }
        proposals.sort_by_key(|p| (!p.open, std::cmp::Reverse(p.made_ms)));
        proposals.truncate(200);
        let new = self.new_lines();
        let changed = new > 0 || bottles != self.bottles || proposals != self.proposals;
        (self.bottles, self.proposals) = (bottles, proposals);
        Ok(changed)
    }

    fn proposals_of(&mut self, dir: &BottleDir, alive: bool) -> Vec<ProposalRow> {
        // Each change is a rename into the directory.
        let changed = std::fs::metadata(dir.proposals()).and_then(|m| m.modified()).ok();
        let known = self
            .queues
            .get(dir.slug())
            .is_some_and(|(at, was, _)| (*at, *was) == (changed, alive) && at.is_some_and(settled));
        if !known {
            let all =
                Queue::read(dir, alive).map(|q| q.all().cloned().collect()).unwrap_or_default();
            self.queues.insert(dir.slug().to_owned(), (changed, alive, all));
        }
        let Some((_, _, all)) = self.queues.get(dir.slug()) else { return Vec::new() };
        let now = now_ms();
        let policy =
            if alive && all.iter().any(|p| p.is_open(now)) { in_force(dir).ok() } else { None };
        all.iter().rev().take(50).map(|p| row(p, policy.as_ref(), alive, now)).collect()
    }

    fn new_lines(&mut self) -> usize {
        let (mut new, mut count) = (Vec::new(), 0);
        let keep = |new: &mut Vec<(String, LogLine)>| {
            new.sort_by(|a, b| a.0.cmp(&b.0));
            new.drain(..new.len().saturating_sub(MAX_LOG_LINES));
        };
        for (bottle, follower) in self.logs.values_mut() {
            let before = new.len();
            // An error is left to the next refresh.
            while let Ok(Some(line)) = follower.next_line() {
                new.extend(log_line(bottle, &line));
            }
            count += new.len() - before;
            if new.len() > 2 * MAX_LOG_LINES {
                keep(&mut new);
            }
        }
        keep(&mut new);
        self.written += count as u64;
        let surplus = (self.lines.len() + new.len()).saturating_sub(MAX_LOG_LINES);
        self.lines.drain(..surplus.min(self.lines.len()));
        self.lines.extend(new.into_iter().map(|(_, line)| line));
        count
    }
}

/// `p` as it is shown; `policy` is the one in force.
pub(super) fn row(
    p: &Proposal,
    policy: Option<&LivePolicies>,
    alive: bool,
    now_ms: u64,
) -> ProposalRow {
    let tone = |t| match t {
        Tone::Title => "title",
        Tone::Plain => "plain",
        Tone::Added => "added",
        Tone::Risk => "risk",
        Tone::Quoted => "said",
    };
    let choices = match &p.ask {
        Ask::Question { choices, .. } => Some(choices.iter().map(ToString::to_string).collect()),
        _ => None,
    };
    ProposalRow {
        bottle: p.bottle.clone(),
        id: p.id,
        state: p.state,
        made_ms: p.made_ms,
        summary: p.ask.summary(),
        open: alive && p.is_open(now_ms),
        once: p.ask.route().is_some(),
        host: p.ask.name_to_type().filter(|_| !p.risks_beside(policy).is_empty()),
        route: p.ask.route().cloned(),
        choices,
        save_only: matches!(p.ask, Ask::GitUpstream { .. }),
        against: policy.map_or_else(|| p.policy.clone(), |now| now.digest_for(&p.ask)),
        // The title contains an age, which changes all the time, so it is left out.
        lines: lines(p, policy, now_ms).into_iter().skip(1).map(|(t, l)| (tone(t), l)).collect(),
    }
}

/// True when `at` is so long ago that no later change can have the same time in the file system.
fn settled(at: SystemTime) -> bool {
    at.elapsed().is_ok_and(|e| e.as_millis() > 100)
}

/// When a line was written, and its text. A request that was let through is shown when it finishes.
fn log_line(bottle: &Arc<str>, line: &[u8]) -> Option<(String, LogLine)> {
    let bottle = bottle.clone();
    let Ok(record) = serde_json::from_slice::<AuditRecord>(line) else {
        return Some((
            String::new(),
            LogLine { bottle, text: unreadable(line, &Colours::default()).trim_end().to_owned() },
        ));
    };
    if record.what.event == "admitted" {
        return None;
    }
    let text = render(&record, &Colours::default());
    let text = text.lines().next().unwrap_or_default().to_owned();
    Some((record.time, LogLine { bottle, text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filtering_ten_thousand_lines_is_fast() {
        let text = "2026-11-21T17:13:57Z allow GET api.example.com/v1/x  route proposal:1  200  \
                    up 120 B down 4 kB  2 ms  and some words more";
        let lines: Vec<LogLine> = (0..MAX_LOG_LINES)
            .map(|n| LogLine { bottle: "demo".into(), text: format!("{text} {n}") })
            .collect();
        let began = std::time::Instant::now();
        assert_eq!(lines.iter().filter(|l| l.contains("more 9999")).count(), 1);
        assert_eq!(
            lines.iter().filter(|l| l.contains("PROPOSAL:1".to_lowercase().as_str())).count(),
            MAX_LOG_LINES
        );
        let took = began.elapsed();
        println!("two filters over {MAX_LOG_LINES} lines: {took:?}");
        assert!(took.as_millis() < 500, "{took:?}, and that without optimisation");
    }

    #[test]
    fn the_latest_lines_are_kept_in_order() {
        let home = tempfile::tempdir().unwrap();
        let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
        let mut model = DashboardModel::new(roots.clone());
        let line = |n: usize| {
            format!(
                "{{\"v\":1,\"seq\":1,\"time\":\"2026-11-21T18:00:00.{n:06}Z\",\"daemon\":\"egress\",\"event\":\"request\",\"verdict\":\"allow\",\"path\":\"/{n}\",\"method\":\"GET\",\"host\":\"a.test\",\"prev\":\"\",\"hash\":\"\"}}\n"
            )
        };
        for (bottle, of) in [("a", 0), ("b", 1), ("c", 2)] {
            let dir = roots.bottle(bottle).unwrap();
            let _lock = dir.lock().unwrap();
            dir.write_metadata(&crate::state::Metadata::starting(&dir, "x", "qemu", "")).unwrap();
            std::fs::write(dir.audit(), (0..8000).map(|n| line(3 * n + of)).collect::<String>())
                .unwrap();
        }
        assert!(model.refresh(false).unwrap());
        assert_eq!((model.lines.len(), model.written), (MAX_LOG_LINES, 24_000));
        for (line, n) in model.lines.iter().rev().zip((0..24_000).rev()) {
            assert!(
                line.text.contains(&format!("/{n}")) && *line.bottle == ["a", "b", "c"][n % 3][..],
                "{line:?} {n}"
            );
        }
        assert!(!model.refresh(false).unwrap(), "and nothing is new");
    }
}
