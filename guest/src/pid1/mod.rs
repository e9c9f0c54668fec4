//! PID 1 of a qemu guest: boot, then serve the host over the one channel until it says stop or goes
//! away.

mod boot;
mod config;
mod copy;
mod exec;
mod files;
mod keystore;
mod port;
pub mod power;
pub mod reaper;
mod spawn;
mod trust;

use std::time::Duration;

use bottle_channel::{GuestOpen, HostOpen, Reply, Session, guest_handshake, write_header};
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// From the port being there to the host having proved the key.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);

/// Never returns: the guest's power goes instead.
pub fn main() -> ! {
    let error = match run() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    power::fatal(&error)
}

type Never = std::convert::Infallible;

fn run() -> Result<Never, String> {
    let booted = boot::boot()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("runtime: {e}"))?;
    runtime.block_on(async {
        let mut port = port::Port::new(booted.port).map_err(|e| format!("channel port: {e}"))?;
        tokio::time::timeout(HANDSHAKE_DEADLINE, guest_handshake(&mut port, &booted.key))
            .await
            .map_err(|_| "the host did not answer the handshake".to_owned())?
            .map_err(|e| format!("handshake: {e}"))?;
        drop(booted.key);
        let reaper = reaper::Reaper::start().map_err(|e| format!("reaper: {e}"))?;
        let (session, mut incoming, driver) = Session::guest(port);
        let driver = tokio::spawn(driver);
        while let Some((open, stream)) = incoming.next().await {
            match open {
                HostOpen::Shutdown => {
                    power::stop_processes().await;
                    power::sync(&booted.disk);
                    reply(stream, &Reply::Ok(())).await;
                    session.close();
                    let _ = tokio::time::timeout(Duration::from_secs(1), driver).await;
                    power::off();
                }
                other => drop(tokio::spawn(serve(other, stream, session.clone(), reaper.clone()))),
            }
        }
        // Nobody can reach this guest any more.
        power::stop_processes().await;
        power::sync(&booted.disk);
        power::off()
    })
}

/// Answers one stream of the host; [`HostOpen::Shutdown`] is the caller's.
pub async fn serve(
    open: HostOpen,
    stream: bottle_channel::ChannelStream,
    session: Session<GuestOpen>,
    reaper: reaper::Reaper,
) {
    match open {
        HostOpen::Exec(request) => exec::serve(request, stream, &reaper).await,
        HostOpen::CopyIn(request) => copy::receive(request, stream).await,
        HostOpen::CopyOut(request) => copy::send(request, stream).await,
        HostOpen::Configure(config) => {
            let done = config::apply(config, &session).await;
            reply(stream, &done.map_or_else(Reply::Error, Reply::Ok)).await;
        }
        HostOpen::Shutdown => {}
    }
}

pub async fn reply<S: AsyncWrite + Unpin, T: Serialize>(mut stream: S, reply: &Reply<T>) {
    // A host that no longer listens needs no answer.
    if write_header(&mut stream, reply).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}
