//! The launch journal: everything that would outlive a crash is recorded before it is created, so
//! that any later command can undo it.
//!
//! The file has one JSON object per line. It *is* the teardown stack: an orderly teardown and a
//! clean-up after `kill -9` undo the same lines in reverse order.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::process_id::ProcessId;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::remove_tree;
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
        path: Utf8PathBuf,
    },
    /// A file of this launch only.
    File {
        /// Its path.
        path: Utf8PathBuf,
    },
    /// A directory of this launch only, with everything in it.
    Tree {
        /// Its path.
        path: Utf8PathBuf,
    },
    /// A child process. It is recorded right after the spawn; until then (and after a crash) the
    /// kernel kills the child with its parent (`PR_SET_PDEATHSIG`).
    Process {
        /// The daemon's name.
        name: String,
        /// Its process.
        #[serde(flatten)]
        id: ProcessId,
    },
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: fs::File,
}

impl Journal {
    /// Begins an empty journal at `path`.
    ///
    /// # Errors
    /// `Io` when the file cannot be created.
    pub fn begin(path: Utf8PathBuf) -> Result<Self> {
        let mut options = fs::OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        Ok(Self { file: options.open(path)? })
    }

    /// Appends a step.
    ///
    /// # Errors
    /// `Io` when the line cannot be written: then the step must not be taken.
    pub fn record(&mut self, step: &Step) -> Result<()> {
        let mut line = serde_json::to_vec(step)
            .context(ErrorKind::Internal, || "cannot write the journal".into())?;
        line.push(b'\n');
        Ok(self.file.write_all(&line)?)
    }

    /// The steps of a journal; `None` when it is damaged. If a crash cut the last line short, its step
    /// was not taken.
    fn steps(text: &str) -> Option<Vec<Step>> {
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Undoes every step, newest first, and removes the journal when nothing is left.
    ///
    /// # Errors
    /// One error that lists every step that could not be undone; all others were undone.
    pub fn unwind(path: &Utf8Path) -> Result<()> {
        let text = fs::read_to_string(path)?;
        let steps = Self::steps(&text).ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                format!("{path} is damaged, so it is unknown what is left to tear down"),
            )
            .hint("bottle rm NAME   # forgets the bottle and what has a fixed place")
        })?;
        // All processes get SIGTERM together and are then waited for one by one.
        for step in steps.iter().rev() {
            if let Step::Process { id, .. } = step {
                id.signal(Signal::SIGTERM);
            }
        }
        let failed: Vec<String> = steps.iter().rev().filter_map(|s| undo(s).err()).collect();
        if !failed.is_empty() {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("teardown is not complete: {}", failed.join("; ")),
            )
            .hint("bottle cleanup"));
        }
        Ok(fs::remove_file(path)?)
    }
}

fn undo(step: &Step) -> Result<(), String> {
    let gone = |removed: io::Result<()>| match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.to_string()),
        _ => Ok(()),
    };
    match step {
        Step::RuntimeDir { path } => gone(fs::remove_dir_all(path)),
        Step::File { path } => gone(fs::remove_file(path)),
        Step::Tree { path } => gone(remove_tree(path)),
        Step::Process { name, id } => terminate(name, *id),
    }
}

/// Ends a process with SIGTERM, and with SIGKILL after a grace of 3 s; then kills the processes left
/// in its process group.
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
        id.signal(signal);
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
    use crate::host::fs::utf8;
    use crate::host::process::Program;

    fn dir() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().expect("dir");
        let path = utf8("dir", dir.path()).expect("UTF-8");
        (dir, path)
    }

    #[test]
    fn unwind_ends_processes_and_removes_files_in_reverse_order() {
        let (_dir, dir) = dir();
        let runtime = dir.join("run");
        fs::create_dir(&runtime).expect("run");
        let disk = dir.join("disk");
        fs::write(&disk, b"x").expect("disk");
        let child = Program::new("sleep", "/bin/sleep").arg("100").start().expect("sleep");
        let id = ProcessId::of(child.pid()).expect("runs");
        let path = dir.join("journal.jsonl");
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
    fn a_damaged_journal_is_kept_and_reported() {
        let (_dir, dir) = dir();
        let path = dir.join("journal.jsonl");
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
        let (_dir, dir) = dir();
        let path = dir.join("journal.jsonl");
        let mut journal = Journal::begin(path.clone()).expect("journal");
        // A directory is not removed as a file.
        journal.record(&Step::File { path: dir.clone() }).expect("record");
        assert!(Journal::unwind(&path).is_err() && path.exists());
    }
}
