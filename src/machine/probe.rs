//! Finds out whether hardware virtualisation really works on this host.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The hardware virtualisation that the host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Virtualisation {
    /// KVM works.
    Kvm,
    /// KVM does not work; the text says why.
    None(String),
}

/// Probes the host. `/dev/kvm` alone proves nothing: on a paravirtual host it opens and even creates
/// machines, but no ordinary kernel boots on them. So the CPU flags are checked too.
#[must_use]
pub fn virtualisation() -> Virtualisation {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let no = |why: &str| Virtualisation::None(why.to_owned());
    if !has_flag(&cpuinfo) {
        return no("the CPU has neither vmx nor svm");
    }
    let device = Path::new("/dev/kvm");
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Virtualisation::Kvm,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            no("there is no /dev/kvm (modprobe kvm_intel or kvm_amd)")
        }
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let group =
                device.metadata().ok().filter(|m| m.mode() & 0o060 == 0o060 && m.gid() != 0);
            let group = group
                .and_then(|m| nix::unistd::Group::from_gid(m.gid().into()).ok().flatten())
                .map(|g| g.name);
            Virtualisation::None(format!(
                "/dev/kvm may not be opened ({})",
                permit(group.as_deref())
            ))
        }
        Err(e) => Virtualisation::None(format!("/dev/kvm does not open: {e}")),
    }
}

/// The command that lets this user open /dev/kvm: joining the group that may, if there is one.
pub(super) fn permit(group: Option<&str>) -> String {
    match group {
        Some(group) => format!("sudo usermod -aG {group} $USER   # and log in again"),
        None => "sudo setfacl -m u:$USER:rw /dev/kvm".into(),
    }
}

fn has_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|l| l.starts_with("flags"))
        .flat_map(str::split_ascii_whitespace)
        .any(|f| f == "vmx" || f == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_may_is_joined_and_where_none_may_there_is_an_acl() {
        assert_eq!(permit(Some("kvm")), "sudo usermod -aG kvm $USER   # and log in again");
        assert_eq!(permit(None), "sudo setfacl -m u:$USER:rw /dev/kvm");
    }

    #[test]
    fn only_the_whole_flag_counts() {
        assert!(has_flag("model name : x\nflags : fpu svm lm\n"));
        assert!(!has_flag("model name : svm\nflags : fpu svm_lock vmxfoo\n"));
    }
}
