//! The bottle's writable disk: the same file system, in the same place, on every engine.

use std::io;
use std::time::Duration;

use camino::Utf8Path;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use super::shared::MachineSpec;
use crate::closure::Closure;
use crate::error::{ErrorKind, Result};
use crate::host::process::Program;
use crate::state::{Journal, Step};

/// Arguments of mke2fs, complete, so that no configuration file is needed: ext4 without a journal
/// (a launch that dies takes its disk along) and without writing empty inode tables (228 kB of 10
/// GiB instead of 167 MB).
pub const MKE2FS_ARGS: [&str; 12] = [
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
const MKE2FS_DEADLINE: Duration = Duration::from_secs(30);

/// Makes the disk of `spec`, or moves the resumable one there, and journals it.
///
/// # Errors
/// `Io` when it cannot be written, `Engine` when it cannot be formatted.
pub(super) async fn make(
    closure: &Closure,
    spec: &MachineSpec<'_>,
    journal: &mut Journal,
) -> Result<()> {
    if resumes(spec, journal)? {
        Ok(())
    } else {
        format(closure, &spec.disk, spec.disk_bytes).await
    }
}

/// Makes `machine` and the disk of `spec` two names of one file: of the resumable disk, or else of
/// `machine`, a new file with an empty file system. Journals it.
///
/// # Errors
/// `Io` when it cannot be written.
pub(super) fn share(
    spec: &MachineSpec<'_>,
    machine: &Utf8Path,
    journal: &mut Journal,
) -> Result<()> {
    if resumes(spec, journal)? {
        fs::remove_file(machine)?;
        fs::hard_link(&spec.disk, machine)?;
    } else {
        fs::hard_link(machine, &spec.disk)?;
    }
    Ok(())
}

/// Moves the resumable disk into its place and returns true; false when there is none, and then
/// there is no disk at all.
fn resumes(spec: &MachineSpec<'_>, journal: &mut Journal) -> Result<bool> {
    journal.record(&Step::File { path: spec.disk.clone() })?;
    if let Some(resumable) = &spec.resumable_disk {
        return match fs::rename(resumable, &spec.disk) {
            // Moved already: this is the second boot of the same launch.
            Err(e) if e.kind() == io::ErrorKind::NotFound && spec.disk.exists() => Ok(true),
            moved => Ok(moved.map(|()| true)?),
        };
    }
    // Never the disk of an earlier launch: a guest has written to it.
    match fs::remove_file(&spec.disk) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(false),
    }
}

/// Makes the file `disk`, of `bytes`, with an empty file system.
///
/// # Errors
/// `Io` when it cannot be written, `Engine` when it cannot be formatted.
pub(super) async fn format(closure: &Closure, disk: &Utf8Path, bytes: u64) -> Result<()> {
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(disk)?;
    file.set_len(bytes)?;
    let mke2fs = Program::new("mke2fs", &closure.tools.mke2fs.path)
        .args(MKE2FS_ARGS)
        .arg(disk)
        .env("MKE2FS_CONFIG", "/dev/null");
    mke2fs.run(MKE2FS_DEADLINE, ErrorKind::Engine).await.map(drop)
}
