//! The operator's terminal while an agent uses it.

use std::io::{IsTerminal, Write};

use bottle_channel::TtySize;
use nix::sys::termios::{FlushArg, tcflush};
use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode, window_size};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::{Context, ErrorKind, Result};

/// Whether both standard input and standard output are a terminal.
#[must_use]
pub fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Mouse reports, bracketed paste and application keys off; cursor on; plain text.
const RESET_SEQUENCE: &[u8] =
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[?25h\x1b[0m";

/// A terminal in raw mode. Dropping this restores it.
pub(crate) struct RawMode(());

impl RawMode {
    /// From here on every key, Ctrl-C included, goes to the agent.
    pub(crate) fn enter() -> Result<Self> {
        enable_raw_mode().context(ErrorKind::Internal, || "cannot set the terminal up".into())?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Modes that the agent switched on go off. Answers of the terminal to the agent's last
        // queries are discarded, so that the shell does not read them as typed.
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(RESET_SEQUENCE).and_then(|()| stdout.flush());
        let _ = tcflush(std::io::stdin(), FlushArg::TCIFLUSH);
        let _ = disable_raw_mode();
    }
}

/// The size of the operator's terminal; 24 × 80 when it does not tell.
#[must_use]
pub fn size() -> TtySize {
    match window_size() {
        Ok(found) if found.rows > 0 && found.columns > 0 => {
            TtySize { rows: found.rows, cols: found.columns }
        }
        _ => TtySize { rows: 24, cols: 80 },
    }
}

/// Sends a resize whenever the terminal's size changes, until the receiver is gone.
pub(crate) fn follow_size(controls: mpsc::Sender<TtySize>) -> Result<()> {
    let mut changes = signal(SignalKind::window_change())
        .context(ErrorKind::Internal, || "cannot follow the terminal's size".into())?;
    tokio::spawn(async move {
        while changes.recv().await.is_some() {
            if controls.send(size()).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
