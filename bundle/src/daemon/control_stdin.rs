//! Control input on standard input: the first line carries the daemon's secrets, each later line is
//! a command. When the orchestrator closes it, the daemon ends.

use std::io;

use nix::errno::Errno;
use nix::unistd::read;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Longest line, bytes.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Stack of the reading thread, bytes.
const STACK_BYTES: usize = 256 << 10;

/// Standard input by lines. Its only buffer is wiped, because lines carry secrets.
pub struct ControlStdin {
    // Full size from the start: growing would leave copies behind. Untouched pages cost nothing.
    buffer: Zeroizing<Vec<u8>>,
    filled: usize,
}

impl ControlStdin {
    /// Standard input, from which nothing has been read yet.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: Zeroizing::new(vec![0; MAX_LINE_BYTES]), filled: 0 }
    }

    /// The next line, parsed as JSON. `what` names the expected document in the error.
    ///
    /// # Errors
    /// One line: there is no line, or it is not that document.
    pub fn next_json<T: DeserializeOwned>(&mut self, what: &str) -> Result<T, String> {
        let line = self.next_line().map_err(|e| e.to_string())?;
        // serde's message could quote a secret, so the error only says where.
        serde_json::from_slice(&line)
            .map_err(|e| format!("standard input is no {what} (column {})", e.column()))
    }

    /// The next line, without its newline.
    ///
    /// # Errors
    /// End of input before a newline, or a line of more than 1 MiB.
    pub fn next_line(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(n) = self.buffer[searched..self.filled].iter().position(|b| *b == b'\n') {
                let end = searched + n;
                let line = Zeroizing::new(self.buffer[..end].to_vec());
                self.buffer.copy_within(end + 1..self.filled, 0);
                let left = self.filled - end - 1;
                self.buffer[left..self.filled].fill(0);
                self.filled = left;
                return Ok(line);
            }
            searched = self.filled;
            if self.filled == MAX_LINE_BYTES {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line of standard input is too long",
                ));
            }
            match read(io::stdin(), &mut self.buffer[self.filled..]) {
                Err(Errno::EINTR) => {}
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "standard input ended before its first line did",
                    ));
                }
                Ok(n) => self.filled += n,
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Hands each further line to `command`. The returned value becomes true when the daemon has to
    /// end: standard input has ended or brought a line that is too long, or SIGTERM or SIGINT has
    /// arrived. To be called inside the runtime.
    ///
    /// # Errors
    /// The signal handlers or the reading thread cannot be set up.
    pub fn listen(
        mut self,
        command: impl Fn(&[u8]) + Send + 'static,
    ) -> io::Result<watch::Receiver<bool>> {
        use tokio::signal::unix::{SignalKind, signal};
        let (tx, rx) = watch::channel(false);
        let on_eof = tx.clone();
        // A thread, because waiting for a pipe, a terminal and /dev/null in the runtime would need
        // three different ways.
        let reader = move || {
            while let Ok(line) = self.next_line() {
                command(&line);
            }
            let _ = on_eof.send(true);
        };
        let thread = std::thread::Builder::new().name("control".to_owned());
        thread.stack_size(STACK_BYTES).spawn(reader)?;
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            let _ = tx.send(true);
        });
        Ok(rx)
    }
}

impl Default for ControlStdin {
    fn default() -> Self {
        Self::new()
    }
}
