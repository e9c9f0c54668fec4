//! `bottle-guest serve SOCKET`: serves the channel in a guest whose engine brings its own kernel,
//! init and file systems.
//!
//! The engine's own way of running programs starts this one, once, as root. Everything after that
//! goes through the channel, as in a guest that we booted.

use std::io::Read;
use std::process::ExitCode;

use bottle_channel::Key;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::UnixStream;

use crate::limits::MAX_OPEN_FILES;
use crate::net;
use crate::pid1::server::serve;

pub fn main(args: &[String]) -> Result<ExitCode, String> {
    let [socket] = args else { return Err("serve needs exactly one socket".into()) };
    Ok(match run(socket) {
        Ok(()) => ExitCode::SUCCESS,
        // The arguments are not at fault, so the usage is not printed.
        Err(e) => {
            eprintln!("bottle-guest: {e}");
            ExitCode::FAILURE
        }
    })
}

fn run(socket: &str) -> Result<(), String> {
    let mut key = [0; Key::LEN];
    std::io::stdin().read_exact(&mut key).map_err(|e| format!("the launch key: {e}"))?;
    let key = Key::from_bytes(key);
    // Orphans become our children, as if this were PID 1.
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| format!("subreaper: {e}"))?;
    let files = getrlimit(Resource::RLIMIT_NOFILE)
        .map_or(MAX_OPEN_FILES, |(_, hard)| hard.min(MAX_OPEN_FILES));
    setrlimit(Resource::RLIMIT_NOFILE, files, files).map_err(|e| format!("rlimit: {e}"))?;
    net::loopback_up().map_err(|e| format!("loopback: {e}"))?;
    net::remove_dummies().map_err(|e| format!("network devices: {e}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("runtime: {e}"))?;
    let done = runtime.block_on(async {
        let channel = UnixStream::connect(socket).await.map_err(|e| format!("{socket}: {e}"))?;
        serve(channel, key, nix::unistd::sync).await
    });
    // A blocked file operation must not keep the guest alive.
    runtime.shutdown_background();
    done
}
