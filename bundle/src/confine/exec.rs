//! `bottle-bundle confine … -- CMD`: this process confines itself and becomes CMD.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::grants::{ConfineError, Grants, Network, Report};
use super::steps::begin;
use super::{landlock, process, seccomp, userns};

/// The command, and what it keeps.
#[derive(Debug)]
pub struct ExecSpec {
    /// Files. CMD's own file and its loader are added.
    pub grants: Grants,
    /// Network. [`Network::Nothing`] adds an empty network namespace. Inherited sockets always work.
    pub network: Network,
    /// Process that CMD must not outlive.
    pub parent: Option<u32>,
    /// Open file descriptors that CMD inherits, besides 0, 1 and 2.
    pub keep_fds: Vec<RawFd>,
    /// Whether to continue without what the kernel does not support.
    pub best_effort: bool,
    /// Program and its arguments.
    pub command: Vec<OsString>,
}

/// Confines this process and replaces it by the command. Returns only on failure.
///
/// # Errors
/// The kernel cannot confine (unless best effort), a path cannot be granted, or the command cannot be
/// started.
pub fn run(mut spec: ExecSpec) -> Result<Infallible, ConfineError> {
    let Some(program) = spec.command.first().map(PathBuf::from) else {
        return Err(ConfineError::Path { path: PathBuf::new(), why: "no command".to_owned() });
    };
    process::close_fds_except(&spec.keep_fds);
    let program = find(&program)?;
    own_files(&program, &mut spec.grants.rx);
    base_files(&mut spec.grants);

    let mut netns = false;
    if spec.network == Network::Nothing {
        match userns::leave_network() {
            Ok(()) => netns = true,
            Err(e) if spec.best_effort => {
                eprintln!("confine: no network namespace ({e}); sockets are filtered")
            }
            Err(e) => {
                let why = format!("{e}; --best-effort goes on without");
                return Err(ConfineError::Kernel { step: "network namespace", why });
            }
        }
    }
    userns::drop_bounding_set();
    begin(spec.parent, &spec.keep_fds)?; // after unshare: it clears the parent-death signal

    for fd in &spec.keep_fds {
        inherit(*fd)?;
    }
    let landlock = landlock::restrict(&spec.grants, spec.network)?;
    let seccomp = match seccomp::install(spec.network, true) {
        Err(e) if spec.best_effort => {
            eprintln!("confine: {e}");
            false
        }
        other => other?,
    };
    let report = Report { landlock, seccomp, netns };
    if !spec.best_effort && (landlock == 0 || !seccomp) {
        let why = format!("this kernel gives: {report}; --best-effort goes on without");
        return Err(ConfineError::Kernel { step: "confinement", why });
    }
    let error = Command::new(&program).args(&spec.command[1..]).exec();
    Err(ConfineError::Path { path: program, why: error.to_string() })
}

/// Absolute path of the command, searched in PATH if it has no slash.
fn find(program: &Path) -> Result<PathBuf, ConfineError> {
    let missing = |why: &str| ConfineError::Path { path: program.to_owned(), why: why.to_owned() };
    let path = if program.components().count() > 1 || program.is_absolute() {
        program.to_owned()
    } else {
        let dirs = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&dirs)
            .map(|d| d.join(program))
            .find(|p| p.is_file())
            .ok_or_else(|| missing("not found in PATH"))?
    };
    path.canonicalize().map_err(|e| missing(&e.to_string()))
}

/// Adds the program, and the loader or interpreter that the kernel starts for it, one level deep.
fn own_files(program: &Path, rx: &mut Vec<PathBuf>) {
    rx.push(program.to_owned());
    if let Some(interpreter) = interpreter(program) {
        if let Some(loader) = interpreter_of_elf(&interpreter) {
            rx.push(loader);
        }
        rx.push(interpreter);
    }
}

fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    File::open(program).ok()?.take(256).read_to_end(&mut head).ok()?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let text = line.split(|b| *b == b'\n').next()?;
        let path = text.split(|b| *b == b' ' || *b == b'\t').find(|w| !w.is_empty())?;
        return Some(OsString::from_vec(path.to_vec()).into());
    }
    interpreter_of_elf(program)
}

/// PT_INTERP of a little-endian 64-bit ELF file, elf(5).
fn interpreter_of_elf(program: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    File::open(program).ok()?.take(64 * 1024).read_to_end(&mut head).ok()?;
    let word = |at: usize, len: usize| -> Option<usize> {
        let bytes = head.get(at..at + len)?;
        usize::try_from(bytes.iter().rev().fold(0u64, |n, b| (n << 8) | u64::from(*b))).ok()
    };
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
    let header = (0..count)
        .filter_map(|n| table.checked_add(n.checked_mul(size)?))
        .find(|at| word(*at, 4) == Some(3))?;
    let (start, len) = (word(header + 8, 8)?, word(header + 32, 8)?);
    let path = head.get(start..start.checked_add(len)?)?.strip_suffix(b"\0")?;
    Some(OsString::from_vec(path.to_vec()).into())
}

/// Adds the files that every program opens.
pub(super) fn base_files(grants: &mut Grants) {
    let present =
        |paths: &[&str]| paths.iter().map(PathBuf::from).filter(|p| p.exists()).collect::<Vec<_>>();
    grants.rw.extend(present(&["/dev/null", "/dev/zero"]));
    grants.ro.extend(present(&["/dev/urandom", "/dev/random", "/proc/self", "/etc/ld.so.cache"]));
}

fn inherit(fd: RawFd) -> Result<(), ConfineError> {
    // SAFETY: the fd was inherited and was not closed above; nothing else in this process owns it.
    let fd_ref = unsafe { BorrowedFd::borrow_raw(fd) };
    let why = |e: nix::errno::Errno| ConfineError::Kernel {
        step: "--keep-fd",
        why: format!("{fd}: {}", e.desc()),
    };
    fcntl(fd_ref, FcntlArg::F_SETFD(FdFlag::empty())).map(drop).map_err(why)
}
