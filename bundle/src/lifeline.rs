//! Standard input: first the daemon's secrets, one line, then nothing until whoever holds the other end goes away.

use std::io;

use nix::errno::Errno;
use nix::unistd::read;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Longest first line, in bytes.
const MAX: usize = 1024 * 1024;

/// Reads the first line of standard input, past no buffer but the returned one, which is wiped when dropped.
///
/// # Errors
/// End of input before a newline, or a line of more than 1 MiB.
pub fn first_line() -> io::Result<Zeroizing<Vec<u8>>> {
    // Full size from the start: growing would leave copies behind. Untouched pages cost nothing.
    let mut line = Zeroizing::new(vec![0; MAX]);
    let mut len = 0;
    let stdin = io::stdin();
    loop {
        if len == MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the first line of standard input is too long"));
        }
        let n = match read(&stdin, &mut line[len..]) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "standard input ended before its first line did"));
        }
        if let Some(end) = line[len..len + n].iter().position(|b| *b == b'\n') {
            line.truncate(len + end);
            return Ok(line);
        }
        len += n;
    }
}

/// Becomes true when standard input ends or SIGTERM or SIGINT arrives. To be called inside the runtime.
///
/// # Errors
/// The signal handlers or the watching thread cannot be set up.
pub fn end() -> io::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tx, rx) = watch::channel(false);
    let on_eof = tx.clone();
    // A thread, because a pipe, a terminal and /dev/null need three different ways to be waited for otherwise.
    std::thread::Builder::new().name("lifeline".to_owned()).stack_size(64 * 1024).spawn(move || {
        let mut rest = [0; 256];
        while !matches!(read(io::stdin(), &mut rest), Ok(0) | Err(Errno::EIO | Errno::EBADF)) {}
        let _ = on_eof.send(true);
    })?;
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        let _ = tx.send(true);
    });
    Ok(rx)
}
