//! The two steps in which a daemon confines itself.

use super::grants::{ConfineError, Grants, Network, Report};
use super::{landlock, process, seccomp};

/// First step: no core dump, no debugger, no new privileges, private files, no inherited file
/// descriptors above 2 except `keep`. With `parent`, this process is killed when that one dies.
///
/// # Errors
/// [`ConfineError::ParentGone`] if the process that started this one is no longer `parent`.
pub fn begin(parent: Option<u32>, keep: &[i32]) -> Result<(), ConfineError> {
    process::close_fds_except(keep);
    process::harden()?;
    parent.map_or(Ok(()), process::die_with)
}

/// Last step: restricts file access, network and system calls. With `may_exec`, Landlock alone
/// decides what may be executed.
///
/// # Errors
/// A granted path cannot be opened, or the kernel refuses a filter that it supports.
pub fn seal(grants: &Grants, network: Network, may_exec: bool) -> Result<Report, ConfineError> {
    let landlock = landlock::restrict(grants, network)?;
    let seccomp = seccomp::install(network, may_exec)?;
    Ok(Report { landlock, seccomp, netns: false })
}
