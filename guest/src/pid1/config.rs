//! Applies the configuration of a launch.

use bottle_channel::{GuestConfig, GuestOpen, Session};
use nix::sys::time::TimeSpec;

use super::files::{append, make_dir, replace};
use super::trust;
use crate::relay;

/// git's configuration for all users.
const GIT_SETTINGS: &str = "/etc/gitconfig";

pub async fn apply(config: GuestConfig, session: &Session<GuestOpen>) -> Result<(), String> {
    if config.time_unix_ms > 0 {
        let now = TimeSpec::from_duration(std::time::Duration::from_millis(config.time_unix_ms));
        nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, now)
            .map_err(|e| format!("clock: {e}"))?;
    }
    for endpoint in &config.endpoints {
        let listener = relay::listen(endpoint.port).await?;
        let (name, session) = (endpoint.name, session.clone());
        tokio::spawn(async move {
            loop {
                let connection = relay::accept(&listener).await;
                // While this waits for a free stream, further connections stay in the listener's
                // backlog.
                let Ok(stream) = session.open(&GuestOpen::Endpoint { name }).await else { return };
                tokio::spawn(relay::splice(connection, stream));
            }
        });
    }
    // File operations must not block the streams.
    tokio::task::spawn_blocking(move || files(&config)).await.map_err(|e| e.to_string())?
}

fn files(config: &GuestConfig) -> Result<(), String> {
    if !config.hostname.is_empty() {
        nix::unistd::sethostname(&config.hostname).map_err(|e| format!("hostname: {e}"))?;
        let hosts =
            format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost\n", config.hostname);
        for (path, content) in [
            ("/etc/hosts", hosts),
            ("/etc/hostname", format!("{}\n", config.hostname)),
            ("/etc/resolv.conf", String::new()),
        ] {
            replace(path, content.as_bytes(), 0o644, 0, 0).map_err(|e| format!("{path}: {e}"))?;
        }
    }
    for dir in &config.mkdirs {
        make_dir(dir).map_err(|e| format!("mkdir {}: {e}", dir.path))?;
    }
    if let Some(certificate) = &config.authority {
        trust::install(certificate).map_err(|e| format!("certificate authority: {e}"))?;
    }
    if !config.git_settings.is_empty() {
        append(GIT_SETTINGS, &config.git_settings).map_err(|e| format!("{GIT_SETTINGS}: {e}"))?;
    }
    Ok(())
}
