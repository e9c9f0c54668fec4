//! Applying a launch's configuration.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

use bottle_channel::{GuestConfig, GuestOpen, MakeDir, Session};
use nix::sys::time::TimeSpec;

use super::trust;
use crate::relay;

/// git's settings for every user.
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
                // Waiting here for a free stream leaves further connections in the listener's
                // backlog.
                let Ok(stream) = session.open(&GuestOpen::Endpoint { name }).await else { return };
                tokio::spawn(relay::splice(connection, stream));
            }
        });
    }
    // Files must not hold up the streams.
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
        trust::append(GIT_SETTINGS, &config.git_settings)
            .map_err(|e| format!("{GIT_SETTINGS}: {e}"))?;
    }
    Ok(())
}

/// Writes a new file next to `path` and renames it there.
pub fn replace(path: &str, content: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    let temporary = format!("{path}.bottle-new");
    let _ = fs::remove_file(&temporary);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    io::Write::write_all(&mut file, content)?;
    std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    fs::rename(&temporary, path)
}

fn make_dir(dir: &MakeDir) -> io::Result<()> {
    let path = Path::new(&dir.path);
    if !path.is_absolute() {
        return Err(io::Error::other("not an absolute path"));
    }
    make_parents(path, Some(dir.uid), Some(dir.gid))?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e)
            if e.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(path)?.is_dir() => {
        }
        other => other?,
    }
    lchown(path, Some(dir.uid), Some(dir.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(dir.mode & 0o7777))
}

/// Makes the missing directories above `path`, for that owner.
pub fn make_parents(path: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if parent.as_os_str().is_empty() || parent.is_dir() {
        return Ok(());
    }
    make_parents(parent, uid, gid)?;
    fs::DirBuilder::new().mode(0o755).create(parent)?;
    lchown(parent, uid, gid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn replacing_a_symlink_leaves_its_target_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let meta = fs::metadata(&target).unwrap();
        replace(link.to_str().unwrap(), b"new", 0o640, meta.uid(), meta.gid()).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read(&link).unwrap(), b"new");
        assert_eq!(fs::metadata(&link).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
