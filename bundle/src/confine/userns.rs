//! New user and network namespaces, without being root.

use std::fs;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::grants::ConfineError;
use super::process::kernel;

/// Leaves the host's network; afterwards not even loopback is up. User and group ids stay the same,
/// and the capabilities of the new user namespace are given up for good.
pub(super) fn leave_network() -> Result<(), ConfineError> {
    enter(CloneFlags::CLONE_NEWNET, "unshare(user, network)")?;
    drop_bounding_set();
    Ok(())
}

/// Enters new namespaces, among them a user namespace in which user and group ids stay the same. Its
/// capabilities last until the next program is executed, if [`drop_bounding_set`] is called first.
pub(super) fn enter(flags: CloneFlags, step: &'static str) -> Result<(), ConfineError> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | flags).map_err(kernel(step))?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|e| ConfineError::Kernel {
            step: "user namespace maps",
            why: format!("{file}: {e}"),
        })
    };
    write("setgroups", "deny".to_owned())?; // required before an unprivileged gid_map, user_namespaces(7)
    write("uid_map", format!("{uid} {uid} 1"))?;
    write("gid_map", format!("{gid} {gid} 1"))
}

/// No program that is executed later gets a capability, not even as uid 0 of the namespace.
pub(super) fn drop_bounding_set() {
    for capability in 0..64 {
        // SAFETY: prctl with integer arguments only. An unknown capability gives EINVAL, a missing
        // right gives EPERM; both are harmless.
        let _ = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}
