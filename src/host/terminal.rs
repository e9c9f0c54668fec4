//! The operator's terminal while an agent has it.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use bottle_channel::TtySize;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::{Context, Kind, Result};

/// Whether the operator sits at a terminal, both ways.
#[must_use]
pub fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Mouse reports, bracketed paste and application keys off; cursor on; plain text.
const RESET: &[u8] =
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[?25h\x1b[0m";

/// A terminal in raw mode; dropping this restores it.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Every key, Ctrl-C included, goes to the agent from here on.
    pub(crate) fn enter() -> Result<Self> {
        let what = || "cannot set the terminal up".to_owned();
        let stdin = std::io::stdin();
        let saved = tcgetattr(&stdin).context(Kind::Internal, what)?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw).context(Kind::Internal, what)?;
        Ok(Self(saved))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // What the agent switched on goes off, and what its last questions made the terminal type
        // goes away.
        let _ = std::io::stdout().write_all(RESET).and_then(|()| std::io::stdout().flush());
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSAFLUSH, &self.0);
    }
}

nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// The size of the operator's terminal; 24 × 80 when it does not say.
#[must_use]
pub fn size() -> TtySize {
    use std::os::fd::AsRawFd;
    let mut found = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which `found` is.
    let answered = unsafe { window_size(std::io::stdout().as_raw_fd(), &raw mut found) }.is_ok();
    if answered && found.ws_row > 0 && found.ws_col > 0 {
        TtySize { rows: found.ws_row, cols: found.ws_col }
    } else {
        TtySize { rows: 24, cols: 80 }
    }
}

/// Sends a resize whenever the terminal's size changes, until the receiver is gone.
pub(crate) fn follow_size(controls: mpsc::Sender<TtySize>) -> Result<()> {
    let mut changes = signal(SignalKind::window_change())
        .context(Kind::Internal, || "cannot follow the terminal's size".into())?;
    tokio::spawn(async move {
        while changes.recv().await.is_some() {
            if controls.send(size()).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
