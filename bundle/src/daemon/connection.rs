//! One HTTP connection, which ends gracefully when the daemon does.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::watch;

/// Runs `connection` to its end. Once `ending` becomes true, `graceful_shutdown` makes it finish the
/// request in progress and take no other; when `cut_off` completes after that, the connection is
/// dropped. Returns the error that broke the connection, if one did.
pub async fn serve<C, E: Display>(
    connection: C,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
    mut ending: watch::Receiver<bool>,
    cut_off: impl Future<Output = ()>,
) -> Option<E>
where
    C: Future<Output = Result<(), E>>,
{
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = ending.wait_for(|end| *end) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            graceful_shutdown(connection.as_mut());
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = cut_off => Ok(()),
            }
        }
    };
    if let Err(e) = &ended {
        tracing::debug!("connection: {e}");
    }
    ended.err()
}
