//! A cgroup for each exec. When the host hangs up on an exec, its cgroup is killed. That also ends
//! descendants that have left its session and process group.
//!
//! All of this is best effort: where cgroup2 is not mounted, or is read-only, an exec has no cgroup.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where cgroup2 is mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
const NAME_PREFIX: &str = "bottle-exec-";

/// The cgroup of one exec. It is removed when this is dropped, or, if processes remain, when a
/// later exec starts.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes a new cgroup.
    pub fn create() -> Option<Self> {
        Self::create_in(Path::new(CGROUP_ROOT))
    }

    fn create_in(root: &Path) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        for entry in fs::read_dir(root).ok()?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(NAME_PREFIX.as_bytes()) {
                let _ = fs::remove_dir(entry.path()); // fails while it has processes
            }
        }
        let dir = root.join(format!("{NAME_PREFIX}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&dir).ok()?;
        Some(Self { dir })
    }

    /// A file that moves a process into the cgroup when the process writes `0` to it.
    pub fn procs(&self) -> Option<File> {
        fs::OpenOptions::new().write(true).open(self.dir.join("cgroup.procs")).ok()
    }

    /// Sends SIGKILL to every process in the cgroup.
    pub fn kill(&self) {
        let all_at_once = self.dir.join("cgroup.kill"); // since Linux 5.14
        if all_at_once.exists() && fs::write(&all_at_once, "1").is_ok() {
            return;
        }
        let pids = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_cgroup_is_removed_when_it_is_empty_and_otherwise_later() {
        let root = tempfile::tempdir().unwrap();
        let first = Cgroup::create_in(root.path()).unwrap();
        let second = Cgroup::create_in(root.path()).unwrap();
        let (first_dir, second_dir) = (first.dir.clone(), second.dir.clone());
        assert!(!first_dir.exists(), "an empty one is removed when another is made");
        assert!(second_dir.is_dir() && first_dir != second_dir);
        fs::write(second_dir.join("busy"), "").unwrap();
        drop((first, second));
        assert!(second_dir.is_dir(), "it has processes");
        fs::remove_file(second_dir.join("busy")).unwrap();
        drop(Cgroup::create_in(root.path()));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(Cgroup::create_in(&root.path().join("missing")).is_none());
    }

    #[test]
    fn kill_uses_the_kernels_file_or_else_each_pid() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::create_in(root.path()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(cgroup.dir.join("cgroup.procs"), format!("{}\n", child.id())).unwrap();
        fs::write(cgroup.dir.join("cgroup.kill"), "").unwrap();
        cgroup.kill();
        assert_eq!(fs::read_to_string(cgroup.dir.join("cgroup.kill")).unwrap(), "1");
        assert!(child.try_wait().unwrap().is_none(), "only the file was written");
        fs::remove_file(cgroup.dir.join("cgroup.kill")).unwrap();
        cgroup.kill();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
