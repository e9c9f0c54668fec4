//! The signals that end a launch.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Context, ErrorKind, Result};

/// SIGINT, SIGTERM, SIGHUP and SIGQUIT, caught from the moment this exists.
pub(super) struct Signals([(i32, Signal); 4]);

impl Signals {
    pub(super) fn catch() -> Result<Self> {
        let on = |kind: SignalKind| {
            Ok::<_, crate::error::Error>((
                kind.as_raw_value(),
                signal(kind).context(ErrorKind::Internal, || "cannot catch signals".into())?,
            ))
        };
        Ok(Self([
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
            on(SignalKind::quit())?,
        ]))
    }

    /// The number of the next signal.
    pub(super) async fn next(&mut self) -> i32 {
        let waits = self.0.iter_mut().map(|(number, stream)| {
            Box::pin(async move {
                stream.recv().await;
                *number
            })
        });
        futures_util::future::select_all(waits).await.0
    }
}
