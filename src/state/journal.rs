//! The launch journal: each thing that outlives a crash is written down before it exists, so that
//! anyone can undo it.
//!
//! One JSON object a line. The journal *is* the teardown stack: an orderly teardown and a clean-up
//! after `kill -9` undo the same lines in reverse order.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::host::process::ProcessRecord;

/// How long a process may take to end after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(3);

impl ProcessRecord for Journal {
    fn record_process(&mut self, name: &str, pid: i32) -> Result<()> {
        match ProcessId::of(pid) {
            Some(id) => self.record(&Step::Process { name: name.to_owned(), id }),
            None => Ok(()),
        }
    }
}

/// One thing to undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// A private directory for sockets.
    RuntimeDir {
        /// Its path.
        path: PathBuf,
    },
    /// A file of this launch only.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// A directory of this launch only, whatever is in it.
    Tree {
        /// Its path.
        path: PathBuf,
    },
    /// A child process. Written right after the spawn; until then (and after a crash) the kernel
    /// ends the child with its parent (`PR_SET_PDEATHSIG`).
    Process {
        /// What it is.
        name: String,
        /// Which one it is.
        #[serde(flatten)]
        id: ProcessId,
    },
}

/// A process id that cannot mean another process later: with its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: start time in clock ticks since boot.
    pub start_ticks: u64,
    /// The beginning of the id of that boot; 0 where a system has none.
    #[serde(default)]
    pub boot: u64,
    /// The session that it began in, and with it all that it starts.
    #[serde(default)]
    pub session: i32,
}

/// Fields 3, 5, 6 and 22 of a /proc/PID/stat.
struct Stat {
    group: i32,
    session: i32,
    state: char,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        // In one call: the orphans of a process are looked for among all that run.
        let mut stat = [0; 1024];
        let n = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
        // The command name is in parentheses and may hold anything, so fields are counted after the
        // last one.
        let name = stat[..n].iter().rposition(|&byte| byte == b')')?;
        let mut fields = std::str::from_utf8(&stat[name + 1..n]).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let group = fields.nth(1)?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        let start_ticks = fields.nth(15)?.parse().ok()?;
        Some(Self { group, session, state, start_ticks })
    }

    fn runs(&self) -> bool {
        self.state != 'Z' && self.state != 'X'
    }
}

fn boot() -> u64 {
    let id =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().replace('-', "");
    id.get(..16).and_then(|head| u64::from_str_radix(head, 16).ok()).unwrap_or_default()
}

impl ProcessId {
    /// The identity of a process that exists now; `None` when it does not.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).map(|stat| Self {
            pid,
            start_ticks: stat.start_ticks,
            boot: boot(),
            session: stat.session,
        })
    }

    /// Whether this very process still runs (a zombie does not).
    #[must_use]
    pub fn runs(self) -> bool {
        self.boot == boot()
            && Stat::read(self.pid)
                .is_some_and(|stat| stat.start_ticks == self.start_ticks && stat.runs())
    }

    /// Sends it a signal, if it is still this very process.
    fn tell(self, signal: Signal) {
        if self.runs() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// What it has started and left behind in its process group. While any of it is there, no other
    /// group has that number; should it have left nothing, and the number be another's by now, that
    /// is hardly in the same session.
    fn orphans(self) -> Vec<i32> {
        // A zombie is its parent's to bury, and has ended all the same.
        let other = |stat: Stat| stat.start_ticks != self.start_ticks || stat.runs();
        if self.boot != boot() || Stat::read(self.pid).is_some_and(other) {
            return Vec::new();
        }
        let all = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let ours = |s: Stat| {
            (s.group, s.session) == (self.pid, self.session)
                && s.start_ticks >= self.start_ticks
                && s.runs()
        };
        all.filter(|pid| Stat::read(*pid).is_some_and(ours)).collect()
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Begins an empty journal at `path`.
    ///
    /// # Errors
    /// `Config` when the file cannot be created.
    pub fn begin(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .context(Kind::Config, || format!("cannot create {}", path.display()))?;
        Ok(Self { path, file })
    }

    /// Writes a step down.
    ///
    /// # Errors
    /// `Config` when the line cannot be written: then the step must not be taken.
    pub fn record(&mut self, step: &Step) -> Result<()> {
        let mut line = serde_json::to_vec(step)
            .context(Kind::Internal, || "cannot write the journal".into())?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .context(Kind::Config, || format!("cannot write {}", self.path.display()))
    }

    /// The steps of a journal; `None` when it is damaged. A last line that a crash cut short is a
    /// step not taken.
    fn steps(text: &str) -> Option<Vec<Step>> {
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Undoes every step, newest first, and removes the journal when nothing is left.
    ///
    /// # Errors
    /// All that could not be undone, in one error; the other steps were undone all the same.
    pub fn unwind(path: &Path) -> Result<()> {
        let text = fs::read_to_string(path)
            .context(Kind::Config, || format!("cannot read {}", path.display()))?;
        let steps = Self::steps(&text).ok_or_else(|| {
            Error::new(
                Kind::Internal,
                format!("{} is damaged, so nobody knows what is left to tear down", path.display()),
            )
            .hint("bottle rm NAME   # forgets the bottle and what has a fixed place")
        })?;
        // All are told at once, and then waited for: each takes its time.
        for step in steps.iter().rev() {
            if let Step::Process { id, .. } = step {
                id.tell(Signal::SIGTERM);
            }
        }
        let failed: Vec<String> = steps.iter().rev().filter_map(|s| undo(s).err()).collect();
        if !failed.is_empty() {
            return Err(Error::new(
                Kind::Internal,
                format!("teardown is not complete: {}", failed.join("; ")),
            )
            .hint("bottle cleanup"));
        }
        fs::remove_file(path).context(Kind::Config, || format!("cannot remove {}", path.display()))
    }
}

fn undo(step: &Step) -> Result<(), String> {
    let gone = |r: std::io::Result<()>, path: &Path| match r {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {e}", path.display()))
        }
        _ => Ok(()),
    };
    match step {
        Step::RuntimeDir { path } => gone(fs::remove_dir_all(path), path),
        Step::File { path } => gone(fs::remove_file(path), path),
        Step::Tree { path } => gone(super::remove_tree(path), path),
        Step::Process { name, id } => terminate(name, *id),
    }
}

/// Ends a process: SIGTERM, then SIGKILL after a grace of 3 s; then what it left in its process
/// group.
///
/// # Errors
/// A message when something still runs after SIGKILL.
pub fn terminate(name: &str, id: ProcessId) -> Result<(), String> {
    end(name, id)?;
    let deadline = Instant::now() + TERM_GRACE;
    loop {
        let orphans = id.orphans();
        if orphans.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{name} left processes that do not end: {orphans:?}"));
        }
        for pid in orphans {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn end(name: &str, id: ProcessId) -> Result<(), String> {
    for (signal, grace) in [(Signal::SIGTERM, TERM_GRACE), (Signal::SIGKILL, TERM_GRACE)] {
        if !id.runs() {
            return Ok(());
        }
        id.tell(signal);
        let deadline = Instant::now() + grace;
        while id.runs() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    if id.runs() { Err(format!("{name} (process {}) does not end", id.pid)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::Program;

    #[test]
    fn unwind_ends_processes_and_removes_files_in_reverse_order() {
        let dir = tempfile::tempdir().expect("dir");
        let runtime = dir.path().join("run");
        fs::create_dir(&runtime).expect("run");
        let disk = dir.path().join("disk");
        fs::write(&disk, b"x").expect("disk");
        let child = Program::new("sleep", "/bin/sleep").arg("100").start().expect("sleep");
        let id = ProcessId::of(child.pid()).expect("runs");
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::begin(path.clone()).expect("journal");
        journal.record(&Step::RuntimeDir { path: runtime.clone() }).expect("record");
        journal.record(&Step::File { path: disk.clone() }).expect("record");
        journal.record(&Step::Process { name: "sleep".into(), id }).expect("record");
        journal.file.write_all(b"{\"step\":\"fi").expect("a line cut short");
        Journal::unwind(&path).expect("unwind");
        assert!(!runtime.exists() && !disk.exists() && !path.exists() && !id.runs());
        child.wait().expect("reaped");
    }

    #[test]
    fn a_damaged_journal_is_kept_and_said() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal.jsonl");
        for text in ["\0\0\0\n", "{\"step\":\"from-the-future\"}\n"] {
            fs::write(&path, text).expect("journal");
            assert!(
                Journal::unwind(&path).is_err_and(|e| e.to_string().contains("damaged"))
                    && path.exists()
            );
        }
        fs::write(&path, "{\"step\":\"fi").expect("cut short");
        Journal::unwind(&path).expect("nothing was done");
    }

    #[test]
    fn a_reused_process_id_is_left_alone() {
        let own = ProcessId::of(i32::try_from(std::process::id()).expect("pid")).expect("runs");
        let other = ProcessId { start_ticks: own.start_ticks + 1, ..own };
        assert!(own.runs() && !other.runs());
        terminate("other", other).expect("nothing to end");
    }

    #[test]
    fn what_a_daemon_left_behind_ends_with_it_and_nothing_else_does() {
        use std::io::BufRead;
        let start = || {
            let script = "sleep 100 & echo $!; wait";
            let mut child = Program::new("sh", "/bin/sh").args(["-c", script]).start().expect("sh");
            let mut line = String::new();
            std::io::BufReader::new(child.stdout.take().expect("stdout"))
                .read_line(&mut line)
                .expect("a line");
            let id = |pid| ProcessId::of(pid).expect("runs");
            let (daemon, orphan) = (id(child.pid()), id(line.trim().parse().expect("pid")));
            child.kill().expect("killed");
            child.wait().expect("reaped");
            (daemon, orphan)
        };
        let ((daemon, orphan), (_, other)) = (start(), start());
        assert!(orphan.runs() && other.runs());
        let before = ProcessId { boot: daemon.boot ^ 1, ..daemon };
        terminate("before a reboot", before).expect("nothing of ours");
        assert!(orphan.runs());
        terminate("daemon", daemon).expect("ended");
        assert!(!orphan.runs() && other.runs());
        terminate("other", other).expect("ended");
    }

    #[test]
    fn what_cannot_be_undone_keeps_the_journal() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::begin(path.clone()).expect("journal");
        // A directory is not removed as a file.
        journal.record(&Step::File { path: dir.path().to_owned() }).expect("record");
        assert!(Journal::unwind(&path).is_err() && path.exists());
    }
}
