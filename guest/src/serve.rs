//! `bottle-guest serve SOCKET`: the channel in a guest whose engine brings its own kernel, init and
//! file systems.
//!
//! The engine's own way of running programs starts this one as root, once; everything after that
//! goes through the channel, the same as in a guest of ours.

use std::convert::Infallible;
use std::io::Read;
use std::process::ExitCode;

use bottle_channel::{HostOpen, Key, Reply, Session, guest_handshake};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::UnixStream;

use crate::net;
use crate::pid1::reaper::Reaper;
use crate::pid1::{HANDSHAKE_DEADLINE, power, reply, serve};

/// Inherited by everything; see `pid1::boot`.
const OPEN_FILES: u64 = 65536;

pub fn main(args: &[String]) -> Result<ExitCode, String> {
    let [socket] = args else { return Err("serve wants one socket".into()) };
    match run(socket) {
        Ok(never) => match never {},
        // Not the fault of the arguments, so no usage.
        Err(e) => {
            eprintln!("bottle-guest: {e}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run(socket: &str) -> Result<Infallible, String> {
    let mut key = [0; Key::LEN];
    std::io::stdin().read_exact(&mut key).map_err(|e| format!("the launch key: {e}"))?;
    let key = Key::from_bytes(key);
    // What a program leaves behind becomes our child, as if this were PID 1.
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| format!("subreaper: {e}"))?;
    let most =
        getrlimit(Resource::RLIMIT_NOFILE).map_or(OPEN_FILES, |(_, hard)| hard.min(OPEN_FILES));
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|e| format!("rlimit: {e}"))?;
    net::loopback_up().map_err(|e| format!("loopback: {e}"))?;
    net::remove_dummies().map_err(|e| format!("network devices: {e}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("runtime: {e}"))?;
    runtime.block_on(async {
        let mut channel =
            UnixStream::connect(socket).await.map_err(|e| format!("{socket}: {e}"))?;
        tokio::time::timeout(HANDSHAKE_DEADLINE, guest_handshake(&mut channel, &key))
            .await
            .map_err(|_| "the host did not answer the handshake".to_owned())?
            .map_err(|e| format!("handshake: {e}"))?;
        drop(key);
        let reaper = Reaper::start().map_err(|e| format!("reaper: {e}"))?;
        let (session, mut incoming, driver) = Session::guest(channel);
        let driver = tokio::spawn(driver);
        while let Some((open, stream)) = incoming.next().await {
            match open {
                HostOpen::Shutdown => {
                    power::stop_processes().await;
                    nix::unistd::sync();
                    reply(stream, &Reply::Ok(())).await;
                    session.close();
                    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), driver).await;
                    std::process::exit(0);
                }
                other => drop(tokio::spawn(serve(other, stream, session.clone(), reaper.clone()))),
            }
        }
        // Nobody can reach this guest any more.
        power::stop_processes().await;
        std::process::exit(0)
    })
}
