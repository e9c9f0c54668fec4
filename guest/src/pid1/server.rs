//! Serves the host over the channel, until it asks for shutdown or goes away.

use std::time::Duration;

use bottle_channel::{ChannelStream, GuestOpen, HostOpen, Key, Reply, Session, guest_handshake};
use tokio::io::{AsyncRead, AsyncWrite};

use super::reaper::Reaper;
use super::reply::reply;
use super::{config, copy, exec, power};

/// Maximum time from opening the channel to the end of the handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);
/// Maximum time to send the reply to a shutdown request.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Authenticates both ends of `channel` with `key`, and then serves the host's requests. Returns
/// when the host has asked for shutdown, or cannot reach this guest any more; by then every other
/// process has ended and `sync` has run.
///
/// # Errors
/// One line, when the handshake fails.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut channel: S,
    key: Key,
    sync: impl Fn(),
) -> Result<(), String> {
    tokio::time::timeout(HANDSHAKE_DEADLINE, guest_handshake(&mut channel, &key))
        .await
        .map_err(|_| "the host did not answer the handshake".to_owned())?
        .map_err(|e| format!("handshake: {e}"))?;
    drop(key);
    let reaper = Reaper::start().map_err(|e| format!("reaper: {e}"))?;
    let (session, mut incoming, driver) = Session::guest(channel);
    let driver = tokio::spawn(driver);
    while let Some((open, stream)) = incoming.next().await {
        if open == HostOpen::Shutdown {
            power::stop_processes().await;
            sync();
            reply(stream, &Reply::Ok(())).await;
            session.close();
            let _ = tokio::time::timeout(CLOSE_DEADLINE, driver).await;
            return Ok(());
        }
        tokio::spawn(answer(open, stream, session.clone(), reaper.clone()));
    }
    power::stop_processes().await;
    sync();
    Ok(())
}

/// Answers one request of the host.
async fn answer(
    open: HostOpen,
    stream: ChannelStream,
    session: Session<GuestOpen>,
    reaper: Reaper,
) {
    match open {
        HostOpen::Exec(request) => exec::serve(request, stream, &reaper).await,
        HostOpen::CopyIn(request) => copy::receive(request, stream).await,
        HostOpen::CopyOut(request) => copy::send(request, stream).await,
        HostOpen::Configure(config) => {
            let done = config::apply(config, &session).await;
            reply(stream, &done.map_or_else(Reply::Error, Reply::Ok)).await;
        }
        HostOpen::Shutdown => {} // `serve` handles it
    }
}
