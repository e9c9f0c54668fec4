//! The bottle's writable disk: the same file system, in the same place, on every engine.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::MachineSpec;
use crate::closure::Closure;
use crate::error::{Context, Kind, Result};
use crate::host::process::Program;
use crate::state::{Journal, Step};

/// Arguments of mke2fs, complete, so that no configuration file is needed: ext4 without a journal
/// (a launch that dies takes its disk along) and without writing empty inode tables (228 kB of 10
/// GiB instead of 167 MB).
pub const FORMAT: [&str; 12] = [
    "-q",
    "-F",
    "-m",
    "0",
    "-I",
    "256",
    "-L",
    "bottle",
    "-O",
    "extent,huge_file,flex_bg,dir_nlink,extra_isize,filetype,sparse_super,large_file,dir_index,ext_attr,64bit,uninit_bg,^resize_inode",
    "-E",
    "lazy_itable_init=1,nodiscard",
];
/// Longest time to format a disk.
const FORMAT_DEADLINE: Duration = Duration::from_secs(30);

/// Makes the disk of `spec`, or takes the saved one, and journals it.
///
/// # Errors
/// `Config` when it cannot be written, `Engine` when it cannot be formatted.
pub(super) async fn make(
    closure: &Closure,
    spec: &MachineSpec<'_>,
    journal: &mut Journal,
) -> Result<()> {
    if take_saved(spec, journal)? {
        Ok(())
    } else {
        format(closure, &spec.disk, spec.disk_bytes).await
    }
}

/// Gives `machine` the disk of `spec`, the same file by another name: the saved one, or else what
/// `machine` is, a new file with an empty file system. Journals it.
///
/// # Errors
/// `Config` when it cannot be written.
pub(super) fn share(spec: &MachineSpec<'_>, machine: &Path, journal: &mut Journal) -> Result<()> {
    let what = || format!("cannot create the disk {}", spec.disk.display());
    if take_saved(spec, journal)? {
        std::fs::remove_file(machine)
            .and_then(|()| std::fs::hard_link(&spec.disk, machine))
            .context(Kind::Config, what)
    } else {
        std::fs::hard_link(machine, &spec.disk).context(Kind::Config, what)
    }
}

/// Whether the disk is the saved one; otherwise there is none.
fn take_saved(spec: &MachineSpec<'_>, journal: &mut Journal) -> Result<bool> {
    let what = || format!("cannot create the disk {}", spec.disk.display());
    journal.record(&Step::File { path: spec.disk.clone() })?;
    if let Some(saved) = &spec.saved {
        return match std::fs::rename(saved, &spec.disk) {
            // Moved already: this is the second boot of the same launch.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && spec.disk.exists() => Ok(true),
            other => other.context(Kind::Config, what).map(|()| true),
        };
    }
    // Never the disk of an earlier launch: what is on it was written by a guest.
    match std::fs::remove_file(&spec.disk) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context(Kind::Config, what),
        _ => Ok(false),
    }
}

/// Makes the file `disk`, of `bytes`, with an empty file system.
///
/// # Errors
/// `Config` when it cannot be written, `Engine` when it cannot be formatted.
pub(super) async fn format(closure: &Closure, disk: &Path, bytes: u64) -> Result<()> {
    let what = || format!("cannot create the disk {}", disk.display());
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(disk)
        .context(Kind::Config, what)?;
    file.set_len(bytes).context(Kind::Config, what)?;
    let mke2fs = Program::new("mke2fs", &closure.tools.mke2fs.path)
        .args(FORMAT)
        .arg(disk)
        .env("MKE2FS_CONFIG", "/dev/null");
    mke2fs.run(FORMAT_DEADLINE, Kind::Engine).await.map(drop)
}
