//! What the dashboard and the web page show: bottles, proposals, the latest audit lines. Files are
//! read, nobody is waited for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bottle_policy::audit::AuditRecord;
use bottle_policy::{Ask, ProposalState, RouteAsk};
use serde::Serialize;

use crate::error::Result;
use crate::live_policy::in_force;
use crate::logs::render::{Colours, render, unreadable};
use crate::state::{BottleDir, Phase, Roots, now_ms};
use crate::supervise::{Policies, Proposal, Queue, Tone, lines};

/// Audit lines that are kept.
pub(super) const LINES: usize = 10_000;
/// How much of a log's end is read at first, bytes.
const TAIL: u64 = 4 << 20;

/// One bottle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct BottleRow {
    pub name: String,
    pub agent: String,
    pub engine: String,
    pub state: &'static str,
    pub started_ms: u64,
    /// Of one processor, percent, since the look before.
    pub cpu: f32,
    /// Resident, bytes, of its orchestrator and all below it.
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
    /// It can be decided.
    pub open: bool,
    /// It is wide: this must be typed, its host or repository.
    pub host: Option<String>,
    /// What is asked, when it is for a route: it can be narrowed.
    pub route: Option<RouteAsk>,
    /// It is a question, with these choices.
    pub choices: Option<Vec<String>>,
    /// It can be for one request.
    pub once: bool,
    /// It can be approved with `save` only.
    pub save_only: bool,
    /// Digest of the policy that `lines` is against.
    pub against: String,
    /// In full.
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
    /// Whether it has `filter` (lower case) in it; case does not matter.
    pub(super) fn has(&self, filter: &str) -> bool {
        filter.is_empty()
            || find(self.bottle.as_bytes(), filter)
            || find(self.text.as_bytes(), filter)
    }
}

/// Without an allocation: 10 000 lines are looked through at each key.
fn find(text: &[u8], filter: &str) -> bool {
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

/// What there is to show.
pub(super) struct Board {
    roots: Roots,
    /// By name.
    pub bottles: Vec<BottleRow>,
    /// Open ones first, then the latest.
    pub proposals: Vec<ProposalRow>,
    /// Oldest first.
    pub lines: VecDeque<LogLine>,
    /// How many lines there ever were.
    pub written: u64,
    tails: BTreeMap<PathBuf, (Arc<str>, Tail)>,
    queues: HashMap<String, (Option<SystemTime>, bool, Vec<Proposal>)>,
    used: HashMap<String, (Instant, u64)>,
}

impl Board {
    pub(super) fn new(roots: Roots) -> Self {
        Self {
            roots,
            bottles: Vec::new(),
            proposals: Vec::new(),
            lines: VecDeque::new(),
            written: 0,
            tails: BTreeMap::new(),
            queues: HashMap::new(),
            used: HashMap::new(),
        }
    }

    /// Looks again; true when something is different. `measure`: processor and memory too, which
    /// costs more.
    pub(super) fn look(&mut self, measure: bool) -> Result<bool> {
        let (mut bottles, mut proposals) = (Vec::new(), Vec::new());
        let tree = measure.then(processes);
        for dir in self.roots.bottles()? {
            let Some(status) = dir.status() else { continue };
            let m = &status.metadata;
            let state = match (status.alive, m.phase) {
                (true, Phase::Starting) => "starting",
                (true, Phase::Running) => "running",
                (true, _) => "stopping",
                (false, Phase::Exited) => "exited",
                (false, _) => "crashed",
            };
            let rows = self.proposals_of(&dir, status.alive);
            let before = self.bottles.iter().find(|b| b.name == m.slug);
            let (cpu, memory) = match &tree {
                Some(tree) if status.alive => self.usage(&m.slug, m.pid, tree),
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
                self.tails
                    .entry(log.clone())
                    .or_insert_with(|| (m.slug.as_str().into(), Tail::new(log)));
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
            new.drain(..new.len().saturating_sub(LINES));
        };
        for (bottle, tail) in self.tails.values_mut() {
            let before = new.len();
            tail.read(|line| new.extend(read(bottle, line)));
            count += new.len() - before;
            if new.len() > 2 * LINES {
                keep(&mut new);
            }
        }
        keep(&mut new);
        self.written += count as u64;
        let surplus = (self.lines.len() + new.len()).saturating_sub(LINES);
        self.lines.drain(..surplus.min(self.lines.len()));
        self.lines.extend(new.into_iter().map(|(_, line)| line));
        count
    }

    fn usage(&mut self, bottle: &str, pid: u32, tree: &Processes) -> (f32, u64) {
        let (mut ticks, mut pages, mut todo) = (0, 0, vec![pid]);
        while let Some(pid) = todo.pop() {
            if let Some(p) = tree.all.get(&pid) {
                ticks += p.ticks;
                pages += p.pages;
            }
            todo.extend(tree.children.get(&pid).into_iter().flatten());
        }
        let now = Instant::now();
        let before = self.used.insert(bottle.to_owned(), (now, ticks));
        let cpu = before.map_or(0.0, |(at, was)| {
            #[allow(clippy::cast_precision_loss, reason = "a percentage")]
            let used = ticks.saturating_sub(was) as f32; // in 1/100 s
            used / now.duration_since(at).as_secs_f32().max(0.01)
        });
        (cpu.round(), pages * 4096)
    }
}

/// `p` as it is shown; `policy` is what is in force.
pub(super) fn row(
    p: &Proposal,
    policy: Option<&Policies>,
    alive: bool,
    now_ms: u64,
) -> ProposalRow {
    let tone = |t| match t {
        Tone::Title => "title",
        Tone::Plain => "plain",
        Tone::Added => "added",
        Tone::Risk => "risk",
        Tone::Said => "said",
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
        host: p.ask.name_to_type().filter(|_| !p.risks.is_empty()),
        route: p.ask.route().cloned(),
        choices,
        save_only: matches!(p.ask, Ask::GitUpstream { .. }),
        against: policy.map_or_else(|| p.policy.clone(), |now| now.digest_for(&p.ask)),
        // Its title has an age, which changes all the time.
        lines: lines(p, policy, now_ms).into_iter().skip(1).map(|(t, l)| (tone(t), l)).collect(),
    }
}

/// Whether a time is long enough ago that nothing more happens in the same tick of the file
/// system's clock.
fn settled(at: SystemTime) -> bool {
    at.elapsed().is_ok_and(|e| e.as_millis() > 100)
}

/// When it was written, and what it says; what was admitted is shown by its closing line.
fn read(bottle: &Arc<str>, line: &[u8]) -> Option<(String, LogLine)> {
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

/// The end of a file that grows.
struct Tail {
    path: PathBuf,
    open: Option<(File, u64)>,
    part: Vec<u8>,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, open: None, part: Vec::new() }
    }

    /// Gives the whole lines that are new. Errors are for the next look.
    fn read(&mut self, mut line: impl FnMut(&[u8])) {
        let Ok(meta) = std::fs::metadata(&self.path) else { return };
        if self.open.as_ref().is_none_or(|(_, ino)| *ino != meta.ino()) {
            let Ok(mut file) = File::open(&self.path) else { return };
            let start = meta.len().saturating_sub(TAIL);
            self.part.clear();
            let _ = file.seek(SeekFrom::Start(start));
            if start > 0 {
                skip_line(&mut file);
            }
            self.open = Some((file, meta.ino()));
        }
        let Some((file, _)) = &mut self.open else { return };
        if file.stream_position().is_ok_and(|at| at == meta.len()) {
            return;
        }
        let _ = file.take(TAIL).read_to_end(&mut self.part);
        let whole = self.part.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        self.part[..whole].split(|b| *b == b'\n').filter(|l| !l.is_empty()).for_each(&mut line);
        self.part.drain(..whole);
        self.part.shrink_to(4096);
    }
}

fn skip_line(file: &mut File) {
    let mut byte = [0];
    while matches!(file.read(&mut byte), Ok(1)) && byte[0] != b'\n' {}
}

/// All processes of this machine.
struct Processes {
    all: HashMap<u32, Process>,
    children: HashMap<u32, Vec<u32>>,
}

struct Process {
    ticks: u64,
    pages: u64,
}

fn processes() -> Processes {
    let (mut all, mut children) = (HashMap::new(), HashMap::<u32, Vec<u32>>::new());
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Some((parent, process)) = stat(Path::new("/proc").join(pid.to_string()).as_path())
        else {
            continue;
        };
        children.entry(parent).or_default().push(pid);
        all.insert(pid, process);
    }
    Processes { all, children }
}

/// See proc(5): the name in parentheses may hold anything, so fields are counted from its end.
fn stat(dir: &Path) -> Option<(u32, Process)> {
    let text = std::fs::read_to_string(dir.join("stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
    let parent = u32::try_from(number(1)?).ok()?;
    Some((parent, Process { ticks: number(11)? + number(12)?, pages: number(21)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_lines_are_filtered_in_no_time() {
        let text = "2026-11-21T17:13:57Z allow GET api.example.com/v1/x  route proposal:1  200  up 120 B down 4 kB  2 ms  and some words more";
        let lines: Vec<LogLine> = (0..LINES)
            .map(|n| LogLine { bottle: "demo".into(), text: format!("{text} {n}") })
            .collect();
        let began = Instant::now();
        assert_eq!(lines.iter().filter(|l| l.has("more 9999")).count(), 1);
        assert_eq!(
            lines.iter().filter(|l| l.has("PROPOSAL:1".to_lowercase().as_str())).count(),
            LINES
        );
        let took = began.elapsed();
        println!("two filters over {LINES} lines: {took:?}");
        assert!(took.as_millis() < 500, "{took:?}, and that without optimisation");
    }

    #[test]
    fn the_latest_lines_of_all_bottles_are_kept_in_the_order_of_time() {
        let home = tempfile::tempdir().unwrap();
        let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
        let mut board = Board::new(roots.clone());
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
        assert!(board.look(false).unwrap());
        assert_eq!((board.lines.len(), board.written), (LINES, 24_000));
        for (line, n) in board.lines.iter().rev().zip((0..24_000).rev()) {
            assert!(
                line.text.contains(&format!("/{n}")) && *line.bottle == ["a", "b", "c"][n % 3][..],
                "{line:?} {n}"
            );
        }
        assert!(!board.look(false).unwrap(), "and nothing is new");
    }

    #[test]
    fn a_tail_gives_each_line_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut tail = Tail::new(path.clone());
        let mut now = |text: &str| {
            std::io::Write::write_all(
                &mut std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap(),
                text.as_bytes(),
            )
            .unwrap();
            let mut out = Vec::new();
            tail.read(|l| out.push(String::from_utf8(l.to_vec()).unwrap()));
            out
        };
        assert_eq!(now("a\nb"), ["a"]);
        assert_eq!(now("c\n"), ["bc"]);
        assert!(now("").is_empty());
    }
}
