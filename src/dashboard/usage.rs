//! How much processor time and memory bottles use, from /proc.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

/// Size of a page of memory, in bytes.
const PAGE_BYTES: u64 = 4096;

/// All processes of this machine.
pub(super) struct Processes {
    by_pid: HashMap<u32, Process>,
    children: HashMap<u32, Vec<u32>>,
}

struct Process {
    /// Processor time used so far, in 1/100 s.
    ticks: u64,
    /// Resident memory, in pages.
    pages: u64,
}

impl Processes {
    pub(super) fn read() -> Self {
        let (mut by_pid, mut children) = (HashMap::new(), HashMap::<u32, Vec<u32>>::new());
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            let Some((parent, process)) = stat(&Path::new("/proc").join(pid.to_string())) else {
                continue;
            };
            children.entry(parent).or_default().push(pid);
            by_pid.insert(pid, process);
        }
        Self { by_pid, children }
    }

    /// The sum over `pid` and all processes below it.
    fn total(&self, pid: u32) -> Process {
        let (mut total, mut todo) = (Process { ticks: 0, pages: 0 }, vec![pid]);
        while let Some(pid) = todo.pop() {
            if let Some(p) = self.by_pid.get(&pid) {
                total.ticks += p.ticks;
                total.pages += p.pages;
            }
            todo.extend(self.children.get(&pid).into_iter().flatten());
        }
        total
    }
}

/// See proc(5): the name in parentheses may contain anything, so fields are counted from its end.
fn stat(dir: &Path) -> Option<(u32, Process)> {
    let text = std::fs::read_to_string(dir.join("stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
    let parent = u32::try_from(number(1)?).ok()?;
    Some((parent, Process { ticks: number(11)? + number(12)?, pages: number(21)? }))
}

/// Measures each bottle's use of the processor from one call to the next.
#[derive(Default)]
pub(super) struct UsageMeter {
    /// For each bottle: when it was last measured, and its ticks then.
    last: HashMap<String, (Instant, u64)>,
}

impl UsageMeter {
    /// Percent of one processor since the last call for `bottle` (0 at first), and resident bytes,
    /// of its orchestrator `pid` and all processes below it.
    pub(super) fn measure(&mut self, bottle: &str, pid: u32, all: &Processes) -> (f32, u64) {
        let Process { ticks, pages } = all.total(pid);
        let now = Instant::now();
        let last = self.last.insert(bottle.to_owned(), (now, ticks));
        let percent = last.map_or(0.0, |(at, before)| {
            #[allow(clippy::cast_precision_loss, reason = "a percentage")]
            let used = ticks.saturating_sub(before) as f32; // in 1/100 s
            used / now.duration_since(at).as_secs_f32().max(0.01)
        });
        (percent.round(), pages * PAGE_BYTES)
    }
}
