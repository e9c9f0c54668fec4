//! Processes as /proc shows them (proc(5)).

use std::fs::File;
use std::io::Read;

/// Fields of /proc/PID/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Process state, such as `S`; `Z` is a zombie.
    pub state: char,
    /// The parent's process id.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    /// Session.
    pub session: i32,
    /// Processor time in user and kernel mode, clock ticks.
    pub cpu_ticks: u64,
    /// Start time, clock ticks since boot.
    pub start_ticks: u64,
    /// Resident memory, pages.
    pub resident_pages: u64,
}

impl Stat {
    /// That of the process `pid`; `None` when there is no such process.
    #[must_use]
    pub fn read(pid: i32) -> Option<Self> {
        // One read(2), as all processes of the machine are looked at.
        let mut stat = [0; 1024];
        let n = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
        Self::parse(&stat[..n])
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        // The command name is in parentheses and may hold anything, so fields are counted after the
        // last one. The first of them is field 3.
        let name_end = stat.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let id = |number| field(number)?.parse::<i32>().ok();
        let count = |number| field(number)?.parse::<u64>().ok();
        Some(Self {
            state: field(3)?.chars().next()?,
            parent: id(4)?,
            group: id(5)?,
            session: id(6)?,
            cpu_ticks: count(14)? + count(15)?,
            start_ticks: count(22)?,
            resident_pages: count(24)?,
        })
    }

    /// Whether it has not ended; a zombie has.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.state != 'Z' && self.state != 'X'
    }
}

/// The ids of all processes that this user can see.
pub fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The first 64 bits of the kernel's boot id; 0 where a system has none.
#[must_use]
pub fn boot_id() -> u64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let id = id.replace('-', "");
    id.get(..16).and_then(|head| u64::from_str_radix(head, 16).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_end_of_a_name_that_may_hold_anything() {
        let line = b"7 (a) R 1 (b) c) S 1 2 3 0 -1 4 5 6 7 8 10 20 0 0 20 0 1 0 99 1000 33 18\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.group, stat.session), ('S', 1, 2, 3));
        assert_eq!((stat.cpu_ticks, stat.start_ticks, stat.resident_pages), (30, 99, 33));
        assert!(Stat::parse(b"7 (cut").is_none() && Stat::parse(b"7 (a) S 1 2").is_none());
    }

    #[test]
    fn this_process_is_among_all_and_runs() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(pids().any(|pid| pid == own) && Stat::read(own).unwrap().runs());
        assert!(Stat::read(i32::MAX).is_none());
    }
}
