//! What to run, and how it is started.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use zeroize::Zeroizing;

use super::child::Child;

/// A program to start: in a process group of its own, with no standard input, and with its output
/// in pipes of ours, unless it is told otherwise. The kernel kills it when the thread that starts
/// it dies.
pub struct Program {
    pub(super) name: String,
    pub(super) program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    inherits_env: bool,
    dir: Option<PathBuf>,
    inherited_fds: Vec<OwnedFd>,
    pub(super) stdin: Input,
    stdout: Sink,
    stderr: Sink,
    in_foreground: bool,
    outlives_parent: bool,
}

/// Where a program's standard input comes from. It may be secret, so this has no `Debug`.
pub enum Input {
    /// /dev/null.
    Null,
    /// Our own.
    Inherit,
    /// A pipe of ours, which stays open until the [`Child`]'s `stdin` is closed.
    Pipe,
    /// A pipe of ours: these bytes, which are wiped when they were written, then the end.
    Bytes(Zeroizing<Vec<u8>>),
    /// A file.
    File(File),
}

/// Where a program's standard output or standard error goes.
#[derive(Debug)]
pub enum Sink {
    /// /dev/null.
    Null,
    /// Our own.
    Inherit,
    /// A pipe of ours.
    Pipe,
    /// A file.
    File(File),
}

impl Program {
    /// `name` is what the operator reads. `program` is the file to run; one without a `/` is looked
    /// for in the PATH that the program gets.
    pub fn new(name: impl Into<String>, program: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.into(),
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            inherits_env: false,
            dir: None,
            inherited_fds: Vec::new(),
            stdin: Input::Null,
            stdout: Sink::Pipe,
            stderr: Sink::Pipe,
            in_foreground: false,
            outlives_parent: false,
        }
    }

    /// Adds one argument. Arguments are public: every user of the machine can read them, and they
    /// are logged. A secret goes through a pipe.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment, which is empty otherwise. Values are not logged.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives it the environment of this process. For the operator's own commands only.
    #[must_use]
    pub fn inherit_env(mut self) -> Self {
        self.inherits_env = true;
        self
    }

    /// Trusts the CAs that the operator's environment names.
    #[must_use]
    pub fn with_host_roots(self) -> Self {
        ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().fold(self, |program, name| {
            match std::env::var_os(name) {
                Some(value) => program.env(name, value),
                None => program,
            }
        })
    }

    /// Runs it in `dir`. A relative program path with a `/` is relative to that directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Sets its standard input.
    #[must_use]
    pub fn stdin(mut self, input: Input) -> Self {
        self.stdin = input;
        self
    }

    /// Sets where its standard output goes.
    #[must_use]
    pub fn stdout(mut self, sink: Sink) -> Self {
        self.stdout = sink;
        self
    }

    /// Sets where its standard error goes.
    #[must_use]
    pub fn stderr(mut self, sink: Sink) -> Self {
        self.stderr = sink;
        self
    }

    /// Leaves it in our process group, so that it may read the terminal and gets Ctrl-C itself.
    #[must_use]
    pub fn in_foreground(mut self) -> Self {
        self.in_foreground = true;
        self
    }

    /// Lets it live on when this process ends or drops its [`Child`].
    #[must_use]
    pub fn outlives_parent(mut self) -> Self {
        self.outlives_parent = true;
        self
    }

    /// Hands `fd` to the program under the same number, which is returned.
    pub fn keep_fd(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.inherited_fds.push(fd);
        number
    }

    /// Starts it from the calling thread.
    ///
    /// # Errors
    /// It cannot be executed, or there are no descriptors left.
    pub fn start(self) -> io::Result<Child> {
        tracing::debug!(program = ?self.program, args = ?self.args, "spawn {}", self.name);
        // A program given as a string is executed as it stands; duct would put `./` before a path.
        let mut expression = duct::cmd(self.program, self.args).unchecked();
        let env = self.env.into_iter();
        expression = if self.inherits_env {
            env.fold(expression, |expression, (name, value)| expression.env(name, value))
        } else {
            expression.full_env(env)
        };
        let mut stdin = None;
        expression = match self.stdin {
            Input::Null => expression.stdin_null(),
            Input::Inherit => expression,
            Input::Pipe | Input::Bytes(_) => {
                let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
                stdin = Some(ours.into());
                expression.stdin_file(theirs)
            }
            Input::File(file) => expression.stdin_file(file),
        };
        let mut stdout = None;
        expression = match self.stdout {
            Sink::Null => expression.stdout_null(),
            Sink::Inherit => expression,
            Sink::Pipe => expression.stdout_file(output_pipe(&mut stdout)?),
            Sink::File(file) => expression.stdout_file(file),
        };
        let mut stderr = None;
        expression = match self.stderr {
            Sink::Null => expression.stderr_null(),
            Sink::Inherit => expression,
            Sink::Pipe => expression.stderr_file(output_pipe(&mut stderr)?),
            Sink::File(file) => expression.stderr_file(file),
        };
        let fds: Vec<RawFd> = self.inherited_fds.iter().map(AsRawFd::as_raw_fd).collect();
        let (dir, in_foreground) = (self.dir, self.in_foreground);
        let dies_with_parent = !self.outlives_parent;
        let expression = expression.before_spawn(move |command| {
            if let Some(dir) = &dir {
                command.current_dir(dir);
            }
            if !in_foreground {
                command.process_group(0);
            }
            prepare(command, fds.clone(), dies_with_parent);
            Ok(())
        });
        let mut child = Child::new(expression.start()?, dies_with_parent)?;
        (child.stdin, child.stdout, child.stderr) = (stdin, stdout, stderr);
        Ok(child)
    }
}

/// Stores our end of a new pipe and returns the child's.
fn output_pipe(ours: &mut Option<File>) -> io::Result<OwnedFd> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    *ours = Some(read.into());
    Ok(write)
}

/// What the child does between fork and exec.
fn prepare(command: &mut Command, inherited_fds: Vec<RawFd>, dies_with_parent: bool) {
    let parent = nix::unistd::getpid();
    let hook = move || {
        if dies_with_parent {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // The parent may have died before the signal was set.
            if nix::unistd::getppid() != parent {
                return Err(nix::errno::Errno::ESRCH.into());
            }
        }
        for fd in &inherited_fds {
            // SAFETY: the descriptor is open: the `Program` owns it until the spawn is over.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: only prctl(2), getppid(2) and fcntl(2) are called, which are async-signal-safe; nothing is
    // allocated.
    unsafe { command.pre_exec(hook) };
}

/// The last line of `text` that says anything.
pub(super) fn last_line(text: &str) -> &str {
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing")
}
