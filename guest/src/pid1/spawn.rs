//! Starts one process as a given user, with pipes or a terminal.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use bottle_channel::exec::{SpawnError, SpawnErrorKind};
use bottle_channel::{ExecRequest, SELF, TtySize};
use nix::libc;

/// A running process, and our ends of its standard streams.
pub struct Spawned {
    pub pid: i32,
    pub ends: Ends,
}

pub enum Ends {
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
    Terminal(OwnedFd),
}

/// Starts `request`. Blocks for a few milliseconds, until the program runs or was refused.
pub fn spawn(request: &ExecRequest) -> Result<Spawned, SpawnError> {
    let (program, args) =
        request.argv.split_first().ok_or_else(|| refused(SpawnErrorKind::Other, "empty argv"))?;
    let mut command = if program == SELF {
        // After the change of root, this binary has no path. In the child, this link still leads to
        // it.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("bottle-guest");
        command
    } else {
        Command::new(program)
    };
    command.args(args).env_clear().envs(&request.env);

    let terminal = request.tty.map(open_terminal).transpose().map_err(|e| other("terminal", &e))?;
    if let Some((_, slave)) = &terminal {
        std::os::unix::fs::fchown(slave, Some(request.uid), Some(TTY_GROUP))
            .map_err(|e| other("terminal", &e))?;
        let clone = || slave.try_clone().map(Stdio::from).map_err(|e| other("terminal", &e));
        command.stdin(clone()?).stdout(clone()?).stderr(clone()?);
    } else {
        command
            .stdin(if request.stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    let child = Child {
        uid: request.uid,
        gid: request.gid,
        groups: groups_of(request.uid, request.gid),
        cwd: CString::new(request.cwd.as_deref().unwrap_or("/"))
            .map_err(|_| refused(SpawnErrorKind::Other, "NUL in cwd"))?,
        terminal: terminal.is_some(),
    };
    // SAFETY: between fork and exec, `enter` only makes system calls, on data that was allocated
    // before.
    unsafe { command.pre_exec(move || child.enter()) };

    let mut process = command.spawn().map_err(|e| SpawnError {
        kind: match e.kind() {
            io::ErrorKind::NotFound => SpawnErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => SpawnErrorKind::PermissionDenied,
            _ => SpawnErrorKind::Other,
        },
        // The error does not tell whether the program or the directory is missing or forbidden.
        message: format!("{program} (in {}): {e}", request.cwd.as_deref().unwrap_or("/")),
    })?;
    let pid = i32::try_from(process.id())
        .map_err(|_| refused(SpawnErrorKind::Other, "pid out of range"))?;
    let ends = match (terminal, process.stdout.take(), process.stderr.take()) {
        (Some((master, _)), _, _) => Ends::Terminal(master),
        (None, Some(stdout), Some(stderr)) => Ends::Pipes {
            stdin: process.stdin.take().map(OwnedFd::from),
            stdout: stdout.into(),
            stderr: stderr.into(),
        },
        _ => return Err(refused(SpawnErrorKind::Other, "no pipes")),
    };
    Ok(Spawned { pid, ends })
}

/// Debian's group `tty`. devpts is mounted with the same one.
const TTY_GROUP: u32 = 5;

struct Child {
    uid: u32,
    gid: u32,
    groups: Vec<libc::gid_t>,
    cwd: CString,
    terminal: bool,
}

impl Child {
    /// Becomes the user, in a new session. Runs between fork and exec.
    fn enter(&self) -> io::Result<()> {
        let check =
            |result: i32| if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: these are plain system calls; the pointers lead to data of `self`, which outlives
        // them.
        unsafe {
            check(libc::setsid())?;
            if self.terminal {
                check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            }
            check(libc::setgroups(self.groups.len(), self.groups.as_ptr()))?;
            check(libc::setgid(self.gid))?;
            check(libc::setuid(self.uid))?;
            if self.uid != 0 {
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            }
            // After setuid, because root could enter a directory that the user may not.
            check(libc::chdir(self.cwd.as_ptr()))?;
            libc::umask(0o022);
        }
        Ok(())
    }
}

fn open_terminal(size: TtySize) -> io::Result<(OwnedFd, OwnedFd)> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(Some(&size), None)?;
    for fd in [&pty.master, &pty.slave] {
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    nix::fcntl::fcntl(&pty.master, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok((pty.master, pty.slave))
}

/// Changes the size of a terminal. The kernel sends SIGWINCH to its foreground group.
pub fn resize(master: &File, size: TtySize) {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call. It fails only when the
    // terminal is gone.
    unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
}

/// Groups of the user with this id according to /etc/passwd and /etc/group, `gid` first.
fn groups_of(uid: u32, gid: u32) -> Vec<libc::gid_t> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    groups_in(&read("/etc/passwd"), &read("/etc/group"), uid, gid)
}

fn groups_in(passwd: &str, group: &str, uid: u32, gid: u32) -> Vec<libc::gid_t> {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    let mut groups = vec![gid];
    for line in group.lines() {
        let mut fields = line.split(':').skip(2);
        let (Some(id), Some(members)) =
            (fields.next().and_then(|id| id.parse().ok()), fields.next())
        else {
            continue;
        };
        if name.is_some_and(|name| members.split(',').any(|member| member == name))
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    groups
}

fn other(what: &str, error: &io::Error) -> SpawnError {
    refused(SpawnErrorKind::Other, &format!("{what}: {error}"))
}

fn refused(kind: SpawnErrorKind, message: &str) -> SpawnError {
    SpawnError { kind, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn supplementary_groups_come_from_the_guests_files() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\nbroken\n";
        let group = "root:x:0:\ndocker:x:7:other,node\nnodes:x:8:nodes\naudio:x:29:node\nbroken:x\nself:x:1000:node\n";
        assert_eq!(super::groups_in(passwd, group, 1000, 1000), [1000, 7, 29]);
        assert_eq!(super::groups_in(passwd, group, 5, 5), [5]);
    }
}
