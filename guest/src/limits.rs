//! Resource limits of a guest. Editors, file watchers, browsers and build tools need more than the
//! kernel's defaults, which follow the size of the memory.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// Limit for open files, which every process inherits. 1024 is too few for a relay; a million makes
/// programs slow that close every possible descriptor.
const MAX_OPEN_FILES: u64 = 65_536;
/// Limit for processes and threads of one user.
const MAX_PROCESSES: u64 = 16_384;
/// Least size of /dev/shm in bytes. Chromium needs more than the 64 MiB of some engines.
const MIN_SHARED_MEMORY: u64 = 256 << 20;

/// Sysctls with the least value of each. A watch takes about 1 KiB of kernel memory once it is
/// used.
const MIN_SYSCTLS: [(&str, u64); 3] = [
    ("fs/inotify/max_user_watches", 524_288),
    ("fs/inotify/max_user_instances", 8_192),
    ("kernel/threads-max", 32_768),
];

/// Raises the limits of this process, which all others inherit, and of the kernel. In an engine's
/// own guest some may be read-only; those stay as they are.
///
/// # Errors
/// When the limit for open files cannot be set.
pub fn raise() -> Result<(), String> {
    let is_init = std::process::id() == 1;
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(MAX_OPEN_FILES, |(_, hard)| hard);
    let files = if is_init { MAX_OPEN_FILES } else { hard.min(MAX_OPEN_FILES) };
    setrlimit(Resource::RLIMIT_NOFILE, files, files).map_err(|e| format!("rlimit: {e}"))?;
    for (name, least) in MIN_SYSCTLS {
        raise_number(&Path::new("/proc/sys").join(name), least);
    }
    if getrlimit(Resource::RLIMIT_NPROC).is_ok_and(|(soft, _)| soft < MAX_PROCESSES) {
        let _ = setrlimit(Resource::RLIMIT_NPROC, MAX_PROCESSES, MAX_PROCESSES);
    }
    enlarge_shared_memory(Path::new("/dev/shm"));
    Ok(())
}

/// Writes `least` to the file when it holds a smaller number.
fn raise_number(file: &Path, least: u64) {
    let now = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if now.is_some_and(|now| now < least) {
        let _ = fs::write(file, least.to_string());
    }
}

/// Makes `dir` a tmpfs of half the memory, unless it is a tmpfs of at least [`MIN_SHARED_MEMORY`].
fn enlarge_shared_memory(dir: &Path) {
    let found = statfs(dir).ok().filter(|fs| fs.filesystem_type() == TMPFS_MAGIC);
    let size = found.map(|fs| fs.blocks().saturating_mul(fs.block_size().unsigned_abs()));
    if size.is_some_and(|bytes| bytes >= MIN_SHARED_MEMORY) {
        return;
    }
    let remount = if size.is_some() { MsFlags::MS_REMOUNT } else { MsFlags::empty() };
    let flags = remount | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let _ = fs::create_dir_all(dir);
    let _ = mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some("mode=1777,size=50%"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_number_is_raised_and_never_lowered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("max_user_watches");
        for (before, after) in [("15347\n", "524288"), ("1000000\n", "1000000\n"), ("x", "x")] {
            fs::write(&file, before).unwrap();
            raise_number(&file, 524_288);
            assert_eq!(fs::read_to_string(&file).unwrap(), after);
        }
        raise_number(&dir.path().join("missing"), 1);
        assert!(!dir.path().join("missing").exists());
    }
}
