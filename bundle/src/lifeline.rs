//! Standard input: first the daemon's secrets, one line, then what it is told later, a line each,
//! until whoever holds the other end goes away.

use std::io;

use nix::errno::Errno;
use nix::unistd::read;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Longest line, in bytes.
const MAX: usize = 1024 * 1024;

/// Standard input by lines, past no buffer but one that is wiped.
pub struct Lines {
    // Full size from the start: growing would leave copies behind. Untouched pages cost nothing.
    buffer: Zeroizing<Vec<u8>>,
    filled: usize,
}

impl Lines {
    /// Standard input, of which nothing was read yet.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: Zeroizing::new(vec![0; MAX]), filled: 0 }
    }

    /// The next line, without its end.
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
            if self.filled == MAX {
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

    /// Hands every further line to `told`. The result becomes true when standard input ends, or
    /// brings a line that is too long, or SIGTERM or SIGINT arrives. To be called inside the
    /// runtime.
    ///
    /// # Errors
    /// The signal handlers or the reading thread cannot be set up.
    pub fn listen(
        mut self,
        told: impl Fn(&[u8]) + Send + 'static,
    ) -> io::Result<watch::Receiver<bool>> {
        use tokio::signal::unix::{SignalKind, signal};
        let (tx, rx) = watch::channel(false);
        let on_eof = tx.clone();
        // A thread, because a pipe, a terminal and /dev/null need three different ways to be waited
        // for otherwise.
        std::thread::Builder::new().name("lifeline".to_owned()).stack_size(256 * 1024).spawn(
            move || {
                while let Ok(line) = self.next_line() {
                    told(&line);
                }
                let _ = on_eof.send(true);
            },
        )?;
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            let _ = tx.send(true);
        });
        Ok(rx)
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}
