//! Splices the streams that a guest opens to the bundle's sockets. The only way out of a bottle.

use std::sync::Arc;

use bottle_channel::{ChannelStream, EndpointName, GuestOpen, Incoming};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::state::BottleDir;

/// Buffer of a splice in each direction, bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// The running splices of a bottle.
pub(super) struct Splices {
    shut: Arc<Notify>,
    server: JoinHandle<()>,
}

impl Splices {
    /// Serves the guest's streams until the channel ends or [`Splices::shut`].
    pub(super) fn serve(incoming: Incoming<GuestOpen>, dir: BottleDir) -> Self {
        let shut = Arc::new(Notify::new());
        Self { server: tokio::spawn(serve(incoming, dir, Arc::clone(&shut))), shut }
    }

    /// Cuts every connection, so that the daemons see their ends and can account for them.
    pub(super) async fn shut(self) {
        self.shut.notify_one();
        let _ = self.server.await;
    }
}

async fn serve(mut incoming: Incoming<GuestOpen>, dir: BottleDir, shut: Arc<Notify>) {
    let mut splices = JoinSet::new();
    loop {
        tokio::select! {
            opened = incoming.next() => match opened {
                Some((GuestOpen::Endpoint { name }, stream)) => drop(splices.spawn(splice(name, stream, dir.clone()))),
                None => break,
            },
            Some(_) = splices.join_next() => {}
            () = shut.notified() => break,
        }
    }
    splices.shutdown().await;
}

async fn splice(name: EndpointName, mut stream: ChannelStream, dir: BottleDir) {
    // Without the daemon the stream ends at once, which the guest sees as a closed connection.
    let Ok(mut daemon) = UnixStream::connect(dir.daemon_socket(name.as_str())).await else {
        return;
    };
    if let Err(e) = tokio::io::copy_bidirectional_with_sizes(
        &mut stream,
        &mut daemon,
        BUFFER_BYTES,
        BUFFER_BYTES,
    )
    .await
    {
        tracing::debug!("{name}: {e}");
    }
}
