//! The only caller of waitpid: reaps every child and every orphan of the guest.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bottle_channel::exec::ExitStatus;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Passes each exit status to the task that waits for that pid. The others are orphans.
#[derive(Clone, Default)]
pub struct Reaper {
    waiting: Arc<Mutex<HashMap<i32, oneshot::Sender<ExitStatus>>>>,
}

impl Reaper {
    /// Starts the loop on the current runtime, which must be single-threaded: only then can nothing
    /// run between [`super::spawn`] and [`Reaper::watch`], so that no child is reaped before it is
    /// registered.
    pub fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let mut signals = signal(SignalKind::child())?;
        let this = reaper.clone();
        tokio::spawn(async move {
            loop {
                this.reap();
                if signals.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Receives the exit status of the child `pid`.
    pub fn watch(&self, pid: i32) -> oneshot::Receiver<ExitStatus> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, sender);
        receiver
    }

    fn reap(&self) {
        loop {
            let (pid, status) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                // Exit codes have eight bits.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::Code(code as u8)),
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid, ExitStatus::Signal(signal as i32 as u8))
                }
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return,
                Ok(_) => continue,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return,
            };
            if let Some(waiter) =
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid.as_raw())
            {
                let _ = waiter.send(status);
            }
        }
    }
}
