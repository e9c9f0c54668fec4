//! Attributes of the process itself.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::getppid;

use super::grants::ConfineError;

/// Closes every file descriptor above 2 except those in `keep`.
pub(super) fn close_fds_except(keep: &[i32]) {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep {
        close_range(from, fd.saturating_sub(1));
        from = fd + 1;
    }
    close_range(from, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    if first > last {
        return;
    }
    // SAFETY: no Rust value owns these descriptors, because this program has not opened any yet or is
    // about to exec. Before Linux 5.9 (which has no Landlock either) this fails with ENOSYS.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// No core dumps, no ptrace or /proc/PID/mem by the same user, no setuid; new files are private.
pub(super) fn harden() -> Result<(), ConfineError> {
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(kernel("RLIMIT_CORE"))?;
    prctl::set_no_new_privs().map_err(kernel("PR_SET_NO_NEW_PRIVS"))?;
    prctl::set_dumpable(false).map_err(kernel("PR_SET_DUMPABLE"))
}

/// Kills this process when the parent *thread* that started it ends. A change of credentials clears
/// this, so call it after unshare(2).
pub(super) fn die_with(parent: u32) -> Result<(), ConfineError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(kernel("PR_SET_PDEATHSIG"))?;
    // If the parent died before the line above, this process already has another parent.
    if u32::try_from(getppid().as_raw()) == Ok(parent) {
        Ok(())
    } else {
        Err(ConfineError::ParentGone(parent))
    }
}

pub(super) fn kernel(step: &'static str) -> impl Fn(nix::errno::Errno) -> ConfineError {
    move |e| ConfineError::Kernel { step, why: e.desc().to_owned() }
}
