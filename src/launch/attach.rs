//! Runs a command in the guest with the operator's standard streams.

use bottle_channel::{ExecFailure, run_exec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::terminal::{Raw, follow_size};
use crate::error::{Error, Kind, Result};
use crate::say::say;

/// Exec frames over `stream` until the command has ended and all its output is written.
///
/// Returns the command's exit code: 128 + n when signal n killed it, 127 when there is no such command, 126 when it
/// cannot be executed. With `tty` the operator's terminal is raw meanwhile.
///
/// # Errors
/// `Engine` when the guest or its channel is lost.
pub async fn attach<S: AsyncRead + AsyncWrite + Unpin>(stream: S, tty: bool, stdin: bool) -> Result<u8> {
    let (controls, receiver) = mpsc::channel(16);
    let _raw = if tty { Some(Raw::enter()?) } else { None };
    if tty {
        follow_size(controls.clone())?;
    }
    let (out, err) = (tokio::io::stdout(), tokio::io::stderr());
    let ended = if stdin {
        run_exec(stream, tokio::io::stdin(), out, err, receiver).await
    } else {
        run_exec(stream, tokio::io::empty(), out, err, receiver).await
    };
    drop(controls);
    match ended {
        Ok(status) => Ok(status.code()),
        Err(ExecFailure::Spawn(failed)) => {
            say(format_args!("bottle: {}", crate::manifest::neutral(&failed.message)));
            Ok(failed.code())
        }
        // Like a program that writes into a closed pipe: 128 + SIGPIPE, and nothing to report.
        Err(ExecFailure::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(141),
        Err(ExecFailure::Output(e)) => Err(Error::new(Kind::Internal, format!("the agent's output cannot be written: {e}"))),
        Err(lost) => Err(Error::new(Kind::Engine, format!("the agent's machine is lost: {lost}")).hint("bottle list")),
    }
}
