//! Whether hardware virtualisation is really usable here.

use std::fs::OpenOptions;
use std::path::Path;

/// What the host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Virtualisation {
    /// KVM works.
    Kvm,
    /// It does not; the text says why.
    None(String),
}

/// Probes the host. `/dev/kvm` alone proves nothing: on a paravirtual host it opens, and even creates machines, while
/// no ordinary kernel ever boots on it; the CPU flags tell.
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
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => no("there is no /dev/kvm (modprobe kvm_intel or kvm_amd)"),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => no("/dev/kvm may not be opened (sudo usermod -aG kvm $USER)"),
        Err(e) => Virtualisation::None(format!("/dev/kvm does not open: {e}")),
    }
}

fn has_flag(cpuinfo: &str) -> bool {
    cpuinfo.lines().filter(|l| l.starts_with("flags")).flat_map(str::split_ascii_whitespace).any(|f| f == "vmx" || f == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_flag_counts() {
        assert!(has_flag("model name : x\nflags : fpu svm lm\n"));
        assert!(!has_flag("model name : svm\nflags : fpu svm_lock vmxfoo\n"));
    }
}
