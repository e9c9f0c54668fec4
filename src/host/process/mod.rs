//! Every child process of the orchestrator starts here, through `duct`.
//!
//! A [`Program`] is what to run: argv (no shell), an environment that is empty unless named, its
//! descriptors. It runs in one of three ways:
//!
//! * to its end, with a deadline: [`Program::run`] (async) and [`Program::output`] (blocking);
//! * as a [`Daemon`], which is journaled, talked to by pipes, and killed when it is dropped;
//! * as a bare [`Child`], for tests and for what outlives this process.
//!
//! A child is spawned by the thread that calls, never by `spawn_blocking`: `PR_SET_PDEATHSIG` means
//! the death of the *thread* that forked. Waiting uses a pidfd, so it neither blocks the runtime
//! nor needs SIGCHLD; duct's own deadlines, which install a SIGCHLD handler, are compiled out.

mod child;
mod daemon;
mod oneshot;
mod program;
mod secret_line;
#[cfg(test)]
mod tests;

pub use child::Child;
pub use daemon::{CommandWriter, ControlPipe, Daemon, ProcessRecord, ReportReader};
pub use oneshot::Output;
pub use program::{Input, Program, Sink};
