//! `bottle-bundle machine …`: runs the programs of an engine, one after the other, in namespaces of
//! their own.
//!
//! This process stays outside and waits. Its child is the first process of a new PID namespace and
//! runs the programs. When either ends, in whatever way, the kernel ends everything that the programs
//! have started, daemons included. The network namespace is empty, so no program in it can give a
//! guest a network.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::grants::{ConfineError, Grants, Network};
use super::process::kernel;
use super::steps::begin;
use super::{exec, landlock, process, seccomp, userns};

/// Path at which the programs see the machine's directory. It is short because socket paths must be
/// short.
pub const MACHINE_DIR: &str = "/tmp";
/// Name of the channel's socket in the machine's directory.
const CHANNEL_NAME: &str = "channel";
/// How much later than they ask the programs may be woken, nanoseconds. smolvm polls every
/// millisecond, with ten system calls, whether its machine is up. On one processor that takes a fifth
/// of the time in which the machine boots.
const TIMER_SLACK_NANOS: u64 = 5_000_000;

/// The programs of a machine, and what they keep.
#[derive(Debug)]
pub struct MachineSpec {
    /// Files that stay reachable. The machine's directory is added.
    pub grants: Grants,
    /// The machine's private directory.
    pub dir: PathBuf,
    /// The orchestrator's socket, which the programs see as `channel` in their directory.
    pub channel: Option<PathBuf>,
    /// A directory, and the place in the machine's directory (relative to it) at which the programs
    /// see it, read-only.
    pub shared: Option<(PathBuf, PathBuf)>,
    /// Process that the programs must not outlive.
    pub parent: u32,
    /// Programs with their arguments. The last one gets standard input. After one that fails, no
    /// other runs.
    pub steps: Vec<Vec<OsString>>,
    /// Programs that run after the steps, if none failed.
    pub afterwards: Vec<Vec<OsString>>,
}

/// Runs everything to its end. Returns the exit code of the program that ran last.
///
/// # Errors
/// The kernel cannot confine, a path cannot be granted, or a program cannot be started.
pub fn run(mut spec: MachineSpec) -> Result<u8, ConfineError> {
    process::close_fds_except(&[]);
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    userns::enter(flags, "unshare(user, network, mount, pid)")?;
    begin(Some(spec.parent), &[])?; // after unshare: it clears the parent-death signal

    // The pipe's other end closes with this process. So the child learns if it was too late for the
    // parent-death signal.
    let (alive, outside) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(kernel("pipe"))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(kernel("fork"))? {
        ForkResult::Parent { child } => {
            drop(alive);
            let ended = wait(child);
            drop(outside);
            ended
        }
        ForkResult::Child => {
            drop(outside);
            let code = inside(&mut spec, &alive).unwrap_or_else(|e| {
                eprintln!("bottle-bundle machine: {e}");
                4
            });
            std::process::exit(i32::from(code));
        }
    }
}

/// The first process of the namespace.
fn inside(spec: &mut MachineSpec, alive: &OwnedFd) -> Result<u8, ConfineError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(kernel("PR_SET_PDEATHSIG"))?;
    if nix::unistd::read(alive, &mut [0]) == Ok(0) {
        return Err(ConfineError::ParentGone(spec.parent));
    }
    mounts(spec)?;
    spec.grants.rw.push(MACHINE_DIR.into());
    exec::base_files(&mut spec.grants);
    spec.grants.ro.push("/proc".into());
    userns::drop_bounding_set();
    let landlock = landlock::restrict(&spec.grants, Network::Unrestricted)?;
    let seccomp = seccomp::install(Network::Unrestricted, true)?;
    if landlock == 0 || !seccomp {
        return Err(ConfineError::Kernel {
            step: "confinement",
            why: "this kernel has no Landlock or no seccomp".into(),
        });
    }
    nix::sys::prctl::set_timerslack(TIMER_SLACK_NANOS).map_err(kernel("PR_SET_TIMERSLACK"))?;
    let mut code = 0;
    for (n, step) in spec.steps.iter().chain(&spec.afterwards).enumerate() {
        code = run_step(step, n + 1 == spec.steps.len())?;
        if code != 0 {
            break;
        }
    }
    Ok(code)
}

/// Mounts what the programs see. Nothing mounted here is visible outside.
fn mounts(spec: &MachineSpec) -> Result<(), ConfineError> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(kernel("mount(private)"))?;
    let dir = Path::new(MACHINE_DIR);
    // Opened before MACHINE_DIR hides the paths that lead there.
    let channel = spec.channel.as_deref().map(at).transpose()?;
    let shared =
        spec.shared.as_ref().map(|(from, place)| Ok((at(from)?, dir.join(place)))).transpose()?;
    if channel.is_some() {
        // A file must exist for the socket to be mounted over.
        let place = spec.dir.join(CHANNEL_NAME);
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&place)
            .map_err(|e| missing(&place, &e))?;
    }
    mount(Some(&spec.dir), MACHINE_DIR, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .map_err(kernel("mount(machine)"))?;
    let bind = |from: &File, place: &Path, step| {
        let from = format!("/proc/self/fd/{}", from.as_raw_fd());
        mount(Some(&*from), place, none, MsFlags::MS_BIND, none).map_err(kernel(step))
    };
    if let Some(channel) = channel {
        bind(&channel, &dir.join(CHANNEL_NAME), "mount(channel)")?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let Some((shared, place)) = shared {
        bind(&shared, &place, "mount(shared)")?;
        let read_only = quiet | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &place, none, read_only, none).map_err(kernel("mount(read-only)"))?;
    }
    mount(Some("proc"), "/proc", Some("proc"), quiet, none).map_err(kernel("mount(proc)"))
}

fn at(path: &Path) -> Result<File, ConfineError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .map_err(|e| missing(path, &e))
}

fn missing(path: &Path, e: &std::io::Error) -> ConfineError {
    ConfineError::Path { path: path.to_owned(), why: e.to_string() }
}

fn run_step(step: &[OsString], last: bool) -> Result<u8, ConfineError> {
    let Some((program, args)) = step.split_first() else { return Ok(0) };
    let mut command = Command::new(program);
    // Standard output is for people, and nobody reads it. Errors go to our standard error.
    command.args(args).stdout(Stdio::null());
    if !last {
        command.stdin(Stdio::null());
    }
    let child = command
        .spawn()
        .map_err(|e| ConfineError::Path { path: program.into(), why: e.to_string() })?;
    wait(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)))
}

/// Waits for `child`, and reaps every orphan meanwhile. Returns the exit code, or 128 plus the signal's
/// number as a shell does.
fn wait(child: Pid) -> Result<u8, ConfineError> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Ok(128 + u8::try_from(signal as i32).unwrap_or(0));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(kernel("waitpid")(e)),
        }
    }
}
