//! The only module that starts child processes. Commands are duct expressions.
//!
//! Unless a command says otherwise, its standard input and output are /dev/null, and its standard
//! error is ours.

use std::fs::File;
use std::time::{Duration, Instant};

use duct::{Expression, Handle};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

/// Runs a command to its end. Returns its wall time in ms.
pub fn timed(command: Expression) -> Result<f64, String> {
    let began = Instant::now();
    let process = Process::start(command)?;
    let succeeded = process.succeeded()?;
    let wall_ms = began.elapsed().as_secs_f64() * 1e3;
    if succeeded { Ok(wall_ms) } else { Err(format!("{} failed", process.command)) }
}

/// Runs a command to its end. An error has what it wrote to standard error.
pub fn run(command: Expression) -> Result<(), String> {
    let text = format!("{command:?}");
    let output = command
        .stdin_null()
        .stdout_null()
        .stderr_capture()
        .unchecked()
        .run()
        .map_err(|e| format!("{text}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{text} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// A pipe, neither end of which is inherited: what is written to the second comes out of the first.
pub fn pipe() -> Result<(File, File), String> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
    Ok((read.into(), write.into()))
}

/// A running child process.
pub struct Process {
    handle: Handle,
    command: String,
}

impl Process {
    /// Starts `command`.
    pub fn start(command: Expression) -> Result<Self, String> {
        let text = format!("{command:?}");
        let handle = command
            .stdin_null()
            .stdout_null()
            .unchecked()
            .start()
            .map_err(|e| format!("{text}: {e}"))?;
        Ok(Self { handle, command: text })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.handle.pids().first().copied().unwrap_or(0)
    }

    /// Waits for its end. Returns whether it succeeded.
    pub fn succeeded(&self) -> Result<bool, String> {
        self.handle
            .wait()
            .map(|output| output.status.success())
            .map_err(|e| format!("{}: {e}", self.command))
    }

    /// Sends SIGTERM and waits for its end.
    pub fn terminate(&self) {
        if let Ok(pid) = i32::try_from(self.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.handle.wait();
    }

    /// Sends SIGKILL, and waits for its end.
    pub fn kill(&self) {
        let _ = self.handle.kill();
        let _ = self.handle.wait();
    }

    /// Waits for its end; kills it when it takes longer than `grace`.
    pub fn wait_or_kill(&self, grace: Duration) {
        let began = Instant::now();
        while matches!(self.handle.try_wait(), Ok(None)) {
            if began.elapsed() > grace {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
