//! How much processor time and memory bottles use, from /proc.

use std::collections::HashMap;
use std::time::Instant;

use crate::host::procfs;

/// Size of a page of memory, in bytes.
const PAGE_BYTES: u64 = 4096;

/// All processes of this machine.
pub(super) struct Processes {
    by_pid: HashMap<i32, Process>,
    children: HashMap<i32, Vec<i32>>,
}

struct Process {
    /// Processor time used so far, in 1/100 s.
    ticks: u64,
    /// Resident memory, in pages.
    pages: u64,
}

impl Processes {
    pub(super) fn read() -> Self {
        let (mut by_pid, mut children) = (HashMap::new(), HashMap::<i32, Vec<i32>>::new());
        for pid in procfs::pids() {
            let Some(stat) = procfs::Stat::read(pid) else { continue };
            children.entry(stat.parent).or_default().push(pid);
            by_pid.insert(pid, Process { ticks: stat.cpu_ticks, pages: stat.resident_pages });
        }
        Self { by_pid, children }
    }

    /// The sum over `pid` and all processes below it.
    fn total(&self, pid: i32) -> Process {
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
        let Process { ticks, pages } = all.total(i32::try_from(pid).unwrap_or_default());
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
