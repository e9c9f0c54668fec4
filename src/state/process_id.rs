//! Identifies a process even after the kernel may have reused its process id.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::host::procfs::{Stat, boot_id, pids};

/// A process id together with the process's start time, so that it never means another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// The first 64 bits of the kernel's boot id; 0 where a system has none.
    #[serde(default)]
    pub boot: u64,
    /// The session that it and all its children began in.
    #[serde(default)]
    pub session: i32,
}

impl ProcessId {
    /// The identity of a process that exists now; `None` when it does not.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).map(|stat| Self {
            pid,
            start_ticks: stat.start_ticks,
            boot: boot_id(),
            session: stat.session,
        })
    }

    /// Whether this very process still runs (a zombie does not).
    #[must_use]
    pub fn runs(self) -> bool {
        self.boot == boot_id()
            && Stat::read(self.pid)
                .is_some_and(|stat| stat.start_ticks == self.start_ticks && stat.runs())
    }

    /// Sends it a signal, if it is still this very process.
    pub(super) fn signal(self, signal: Signal) {
        if self.runs() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Processes left in this process's group. While one of them lives, the group id cannot be
    /// reused. If none does, the id may belong to a new group; comparing the session id makes a
    /// false match unlikely.
    pub(super) fn orphans(self) -> Vec<i32> {
        // A zombie has ended; only its parent has not read its status yet.
        let reused = |stat: Stat| stat.start_ticks != self.start_ticks || stat.runs();
        if self.boot != boot_id() || Stat::read(self.pid).is_some_and(reused) {
            return Vec::new();
        }
        let ours = |s: Stat| {
            (s.group, s.session) == (self.pid, self.session)
                && s.start_ticks >= self.start_ticks
                && s.runs()
        };
        pids().filter(|pid| Stat::read(*pid).is_some_and(ours)).collect()
    }
}
