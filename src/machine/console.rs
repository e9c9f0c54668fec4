//! The guest's serial console: hostile text, kept short.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;

use crate::error::{Context, Error, Kind, Result};

/// How much of the console's end is kept, in bytes.
const KEPT: usize = 16 * 1024;

/// The last 16 KiB that a guest wrote to its console.
#[derive(Debug, Clone, Default)]
pub(super) struct Console(Arc<Mutex<VecDeque<u8>>>);

impl Console {
    /// Reads `socket` for as long as the VMM has it open.
    pub(super) fn read(socket: UnixStream) -> Result<Self> {
        let what = || "cannot read the console".to_owned();
        socket.set_nonblocking(true).context(Kind::Internal, what)?;
        let mut socket = tokio::net::UnixStream::from_std(socket).context(Kind::Internal, what)?;
        let console = Self::default();
        let tail = console.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = socket.read(&mut buffer).await {
                let mut kept = tail.0.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..n]);
                let excess = kept.len().saturating_sub(KEPT);
                kept.drain(..excess);
            }
        });
        Ok(console)
    }

    /// The last lines, without control characters.
    pub(super) fn last_lines(&self, count: usize) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let clean = |l: &str| l.chars().filter(|c| !c.is_control()).collect::<String>();
        let lines: Vec<String> = text.lines().map(clean).filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }

    /// `error` with the console's last line.
    pub(super) fn explain(&self, error: Error) -> Error {
        let lines = self.last_lines(3);
        if lines.is_empty() {
            return error;
        }
        let mut explained = Error::new(error.kind(), format!("{error}; its console said: {}", lines.join(" | ")));
        if let Some(hint) = error.hint_text() {
            explained = explained.hint(hint);
        }
        explained
    }
}
