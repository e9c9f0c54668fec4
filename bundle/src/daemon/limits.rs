//! Resource limits that a daemon sets on itself.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files that a proxy asks for, if the hard limit allows as many.
const OPEN_FILES: u64 = 4096;

/// Limits the memory that this process, and each of its children, may write to. This is a backstop:
/// if a guest finds a way to make the daemon grow, the daemon ends and not the host.
pub fn limit_memory(bytes: u64) {
    let _ = setrlimit(Resource::RLIMIT_DATA, bytes, bytes);
}

/// Raises the limit of open files. If that fails the old limit stays, and connections wait when
/// descriptors run out.
pub fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(OPEN_FILES)), hard);
    }
}
