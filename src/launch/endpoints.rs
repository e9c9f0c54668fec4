//! Splices the streams that a guest opens to the bundle's sockets. The only way out of a bottle.

use bottle_channel::{GuestOpen, Incoming};
use tokio::net::UnixStream;

use crate::state::BottleDir;

/// Longest chunk a splice holds in each direction, in bytes.
const BUFFER: usize = 64 * 1024;

/// Serves the guest's streams until the channel ends.
pub(super) async fn serve(mut incoming: Incoming<GuestOpen>, dir: BottleDir) {
    while let Some((GuestOpen::Endpoint { name }, mut stream)) = incoming.next().await {
        let socket = dir.daemon_socket(name.as_str());
        tokio::spawn(async move {
            // A daemon that is not there means a stream that ends at once: the guest sees a closed connection.
            let Ok(mut daemon) = UnixStream::connect(&socket).await else { return };
            if let Err(e) = tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut daemon, BUFFER, BUFFER).await {
                tracing::debug!("{name}: {e}");
            }
        });
    }
}
