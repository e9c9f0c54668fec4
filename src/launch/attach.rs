//! Runs a command in the guest with the operator's standard streams.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Task, Poll};

use bottle_channel::{ExecFailure, run_exec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::error::{Error, ErrorKind, Result};
use crate::host::stderr::note;
use crate::host::terminal::{RawMode, follow_size};

/// Exchanges exec frames over `stream` until the command has ended and its output is written.
///
/// Returns the command's exit code: 128 + n when signal n killed it, 127 when there is no such
/// command, 126 when it cannot be executed. With `tty` the operator's terminal is raw meanwhile; if
/// the agent's first output has one of `first_run_prompts`, a note about it is printed at the end.
///
/// # Errors
/// `Engine` when the guest or its channel is lost.
pub async fn attach<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    tty: bool,
    stdin: bool,
    first_run_prompts: &[&str],
) -> Result<u8> {
    let (controls, receiver) = mpsc::channel(16);
    let beginning = Arc::new(Mutex::new(FirstOutput::default()));
    // Dropped after the terminal has been restored.
    let _warning = PromptWarning {
        beginning: beginning.clone(),
        first_run_prompts: if tty { first_run_prompts } else { &[] },
    };
    let _raw = if tty { Some(RawMode::enter()?) } else { None };
    if tty {
        follow_size(controls.clone())?;
    }
    let (out, err) = (WatchedOutput { to: tokio::io::stdout(), beginning }, tokio::io::stderr());
    let ended = if stdin {
        run_exec(stream, tokio::io::stdin(), out, err, receiver).await
    } else {
        run_exec(stream, tokio::io::empty(), out, err, receiver).await
    };
    drop(controls);
    match ended {
        Ok(status) => Ok(status.code()),
        Err(ExecFailure::Spawn(failed)) => {
            note(format_args!("bottle: {}", crate::manifest::neutral(&failed.message)));
            Ok(failed.code())
        }
        // Like a program that writes into a closed pipe: 128 + SIGPIPE, and nothing to report.
        Err(ExecFailure::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(141),
        Err(ExecFailure::Output(e)) => Err(Error::new(
            ErrorKind::Internal,
            format!("the agent's output cannot be written: {e}"),
        )),
        Err(lost) => {
            Err(Error::new(ErrorKind::Engine, format!("the agent's machine is lost: {lost}"))
                .hint("bottle list"))
        }
    }
}

/// Prints, when dropped, which first-run prompt the agent began with.
struct PromptWarning<'a> {
    beginning: Arc<Mutex<FirstOutput>>,
    first_run_prompts: &'a [&'a str],
}

impl Drop for PromptWarning<'_> {
    fn drop(&mut self) {
        let shown = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prompt) = self.first_run_prompts.iter().find(|prompt| shown.has(prompt)) {
            note(format_args!(
                "bottle: the agent began with a question ({prompt} …), so its first start is not the one that this bottle knows; \
                 docs/agents.md names the versions that are tested"
            ));
        }
    }
}

/// Most letters of the first output that are kept.
const MAX_LETTERS: usize = 16 << 10;

/// The letters and digits of the first output. Spaces are left out, because programs draw them by
/// moving the cursor.
#[derive(Debug, Default)]
struct FirstOutput {
    letters: String,
    escape: Escape,
}

/// State of the parser of control sequences (ECMA-48).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    /// `ESC [ …`, to a letter.
    Sequence,
    /// `ESC ] …`, to BEL or ESC.
    String,
}

impl FirstOutput {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.letters.len() == MAX_LETTERS {
                return;
            }
            self.escape = match (self.escape, byte) {
                (_, 0x1b) => Escape::Begun,
                (Escape::Begun, b'[') => Escape::Sequence,
                (Escape::Begun, b']' | b'P' | b'_' | b'^') => Escape::String,
                (Escape::Sequence, 0x20..=0x3f) => Escape::Sequence,
                (Escape::String, byte) if *byte != 7 => Escape::String,
                (Escape::None, byte) => {
                    if byte.is_ascii_alphanumeric() {
                        self.letters.push(char::from(*byte));
                    }
                    Escape::None
                }
                _ => Escape::None,
            };
        }
    }

    fn has(&self, text: &str) -> bool {
        self.letters.contains(&text.chars().filter(char::is_ascii_alphanumeric).collect::<String>())
    }
}

/// An output that keeps its first letters.
struct WatchedOutput<W> {
    to: W,
    beginning: Arc<Mutex<FirstOutput>>,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for WatchedOutput<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.to).poll_write(task, bytes);
        if let Poll::Ready(Ok(n)) = &written {
            self.beginning.lock().unwrap_or_else(PoisonError::into_inner).take(&bytes[..*n]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_seen_however_it_is_drawn_and_only_at_the_beginning() {
        let shown = |pieces: &[&str]| {
            let mut beginning = FirstOutput::default();
            pieces.iter().for_each(|p| beginning.take(p.as_bytes()));
            beginning.has("Do you trust")
        };
        assert!(shown(&["Do you trust the files?"]));
        assert!(shown(&["\x1b[2J\x1b[1mDo\x1b[1Cyo", "u\x1b[", "1Ctr\x1b]0;title\x07ust\x1b[0m"]));
        for other in ["Do you like", "\x1b]0;Do you trust\x07", "\x1b[Do you\x1b_trust"] {
            assert!(!shown(&[other]), "{other:?}");
        }
        assert!(!shown(&[&"x".repeat(MAX_LETTERS), "Do you trust"]));
    }
}
