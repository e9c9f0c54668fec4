//! The guest's serial console: hostile text, kept short.

use std::collections::VecDeque;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;

use crate::error::{Context, Error, Kind, Result};

/// How much of the console's end is kept, in bytes.
const KEPT: usize = 16 * 1024;

/// The last 16 KiB that a guest wrote to its console.
#[derive(Debug, Clone)]
pub(super) enum Console {
    /// Read all the time, so that the guest never waits.
    Socket(Arc<Mutex<VecDeque<u8>>>),
    /// The engine keeps it in a file.
    File(PathBuf),
}

impl Console {
    /// Reads `socket` for as long as the VMM has it open.
    pub(super) fn read(socket: UnixStream) -> Result<Self> {
        let what = || "cannot read the console".to_owned();
        socket.set_nonblocking(true).context(Kind::Internal, what)?;
        let mut socket = tokio::net::UnixStream::from_std(socket).context(Kind::Internal, what)?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let console = Self::Socket(Arc::clone(&tail));
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = socket.read(&mut buffer).await {
                let mut kept = tail.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..n]);
                let excess = kept.len().saturating_sub(KEPT);
                kept.drain(..excess);
            }
        });
        Ok(console)
    }

    /// What an engine writes to `path`.
    pub(super) fn file(path: PathBuf) -> Self {
        Self::File(path)
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Socket(kept) => {
                kept.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
            }
            Self::File(path) => {
                let mut bytes = Vec::new();
                if let Ok(mut file) = std::fs::File::open(path) {
                    let size = file.metadata().map_or(0, |m| m.len());
                    let _ = file.seek(SeekFrom::Start(size.saturating_sub(KEPT as u64)));
                    let _ = file.take(KEPT as u64).read_to_end(&mut bytes);
                }
                bytes
            }
        }
    }

    /// The last lines, without control characters.
    pub(super) fn last_lines(&self, count: usize) -> Vec<String> {
        let bytes = self.bytes();
        let text = String::from_utf8_lossy(&bytes);
        let clean = |l: &str| bottle_policy::text::remove(l, usize::MAX);
        let lines: Vec<String> = text.lines().map(clean).filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }

    /// `error` with the console's last line.
    pub(super) fn explain(&self, error: Error) -> Error {
        let lines = self.last_lines(3);
        if lines.is_empty() {
            return error;
        }
        let mut explained =
            Error::new(error.kind(), format!("{error}; its console said: {}", lines.join(" | ")));
        if let Some(hint) = error.hint_text() {
            explained = explained.hint(hint);
        }
        explained
    }
}
