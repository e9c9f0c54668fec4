//! A denylist of system calls: those that no daemon calls after its start, and those that sandboxes
//! are escaped with.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::grants::{ConfineError, Network};

/// Bit that marks a call of the x32 ABI. A filter on x86_64 system call numbers would miss it.
#[cfg(target_arch = "x86_64")]
const X32_BIT: i64 = 0x4000_0000;

const EXEC_CALLS: &[i64] = &[libc::SYS_execve, libc::SYS_execveat];

/// Calls that lead to a peer that the process was not given.
const NEW_PEER_CALLS: &[i64] =
    &[libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

const DENIED_CALLS: &[i64] = &[
    // other processes' memory and files
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_process_madvise,
    // mounts and roots
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    // namespaces
    libc::SYS_unshare,
    libc::SYS_setns,
    // kernel code and its attack surface
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    // io_uring opens sockets and files past this filter
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // keys
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // the host
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
];

/// Installs the filter on the calling thread and its future children. Returns false on an
/// architecture for which it is not written.
pub(super) fn install(network: Network, may_exec: bool) -> Result<bool, ConfineError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(false) };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED_CALLS.iter().map(|nr| (*nr, vec![])).collect();
    if !may_exec {
        rules.extend(EXEC_CALLS.iter().map(|nr| (*nr, vec![])));
    }
    // A user namespace would give capabilities back. clone3 has its flags in memory, where a filter
    // cannot see them, so it returns ENOSYS (glibc and musl fall back to clone).
    rules.insert(libc::SYS_clone, vec![rule(&[masked(0, libc::CLONE_NEWUSER)?])?]);
    match network {
        Network::Unrestricted => {}
        Network::Nothing => rules.extend(NEW_PEER_CALLS.iter().map(|nr| (*nr, vec![]))),
        Network::Outgoing | Network::Inet => {
            rules.insert(
                libc::SYS_socket,
                vec![rule(&[not(0, libc::AF_INET)?, not(0, libc::AF_INET6)?])?],
            );
        }
    }
    // Every filter sees every call, and the strictest result wins.
    apply(BTreeMap::from([(libc::SYS_clone3, vec![])]), libc::ENOSYS, arch)?;
    apply(rules, libc::EPERM, arch)?;
    Ok(true)
}

fn apply(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
    arch: TargetArch,
) -> Result<(), ConfineError> {
    #[cfg(target_arch = "x86_64")]
    let rules = {
        let mut both = rules.clone();
        both.extend(rules.into_keys().map(|nr| (nr | X32_BIT, vec![])));
        both
    };
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).map_err(failed)?;
    let program: BpfProgram = filter.try_into().map_err(failed)?;
    apply_filter(&program).map_err(failed)
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, ConfineError> {
    SeccompRule::new(conditions.to_vec()).map_err(failed)
}

fn masked(arg: u8, bits: i32) -> Result<SeccompCondition, ConfineError> {
    let bits = u64::from(bits.unsigned_abs());
    SeccompCondition::new(arg, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bits), bits)
        .map_err(failed)
}

fn not(arg: u8, value: i32) -> Result<SeccompCondition, ConfineError> {
    SeccompCondition::new(
        arg,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Ne,
        u64::from(value.unsigned_abs()),
    )
    .map_err(failed)
}

fn failed(e: impl std::fmt::Display) -> ConfineError {
    ConfineError::Kernel { step: "seccomp", why: e.to_string() }
}
