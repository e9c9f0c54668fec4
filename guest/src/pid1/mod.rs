//! PID 1 of a qemu guest: it boots, and then serves the host over the channel until the host asks
//! for shutdown or goes away.

mod boot;
mod config;
mod copy;
mod exec;
mod files;
mod keystore;
mod port;
mod power;
mod reaper;
mod reply;
pub mod server;
mod spawn;
mod trust;

/// Never returns: the guest powers off instead.
pub fn main() -> ! {
    match run() {
        Ok(()) => power::off(),
        Err(error) => power::fatal(&error),
    }
}

fn run() -> Result<(), String> {
    let booted = boot::boot()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("runtime: {e}"))?;
    let done = runtime.block_on(async {
        let port = port::Port::new(booted.port).map_err(|e| format!("channel port: {e}"))?;
        server::serve(port, booted.key, || power::sync(&booted.disk)).await
    });
    // A blocked file operation must not keep the guest alive.
    runtime.shutdown_background();
    done
}
