//! Shuts the guest down.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// Time between SIGTERM and SIGKILL to all processes.
const GRACE: Duration = Duration::from_millis(500);

/// Ends every process except this one.
pub async fn stop_processes() {
    let all = Pid::from_raw(-1);
    if kill(all, Signal::SIGTERM).is_err() {
        return;
    }
    if tokio::time::timeout(GRACE, no_children()).await.is_err() {
        let _ = kill(all, Signal::SIGKILL);
        // A process that survives this is stuck in the kernel. Do not wait for it.
        let _ = tokio::time::timeout(GRACE, no_children()).await;
    }
}

/// Waits until the reaper has reaped everything. Orphans become our children, so when we have none,
/// no process is left.
async fn no_children() {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while waitid(Id::All, peek) != Err(Errno::ECHILD) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Flushes the private disk and makes it read-only.
pub fn sync(disk: &File) {
    // SAFETY: syncfs takes a descriptor that `disk` keeps open.
    unsafe { libc::syncfs(disk.as_raw_fd()) };
    let path = format!("/proc/self/fd/{}", disk.as_raw_fd());
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // The kernel refuses this while a file is open for writing. Then the file system's journal is
    // replayed at the next mount.
    let _ = mount(None::<&str>, "/", None::<&str>, flags, None::<&str>);
    let _ = mount(None::<&str>, &*path, None::<&str>, flags, None::<&str>);
}

/// Powers off now.
pub fn off() -> ! {
    // reboot returns only with an error. Without power management, halting is all that is left.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    let _ = reboot(RebootMode::RB_HALT_SYSTEM);
    loop {
        std::thread::park();
    }
}

/// Writes one line to the console, for the host's log, and powers off.
pub fn fatal(message: &str) -> ! {
    let line = bottle_text::replace(message, ' ', usize::MAX);
    let line = format!("bottle-guest: fatal: {line}\n");
    for console in ["/dev/console", "/dev/ttyS0"] {
        if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(console) {
            if std::io::Write::write_all(&mut file, line.as_bytes()).is_ok() {
                // Wait until the last byte has left the port.
                let _ = nix::sys::termios::tcdrain(&file);
                break;
            }
        }
    }
    off()
}
