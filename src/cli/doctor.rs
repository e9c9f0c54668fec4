//! `bottle doctor`: checks whether bottles can run here.

use std::time::Duration;

use serde::Serialize;

use super::output::print_json;
use crate::closure::Closure;
use crate::error::{Error, ErrorKind, Result};
use crate::host::process::Program;
use crate::machine::{SMOLVM_TESTED, Virtualisation, virtualisation};
use crate::state::Roots;

/// Longest trial of the confinement.
const CONFINEMENT_DEADLINE: Duration = Duration::from_secs(30);

/// Check whether bottles can run here, and say what to do if not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    level: Level,
    detail: String,
    hint: Option<String>,
}

fn finding(
    what: &'static str,
    level: Level,
    detail: impl Into<String>,
    hint: Option<&str>,
) -> Finding {
    Finding { what, level, detail: detail.into(), hint: hint.map(str::to_owned) }
}

fn failed(what: &'static str, error: &Error) -> Finding {
    finding(what, Level::Failed, error.chain(), error.hint_text())
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let findings = [state(), closure(), engine(), confinement(), landlock()];
        if self.json {
            print_json(&findings)?;
        } else {
            for f in &findings {
                let mark = match f.level {
                    Level::Ok => "ok     ",
                    Level::Warning => "warning",
                    Level::Failed => "FAILED ",
                };
                println!("{mark} {:<12} {}", f.what, f.detail);
                if let Some(hint) = &f.hint {
                    println!("{:>21}hint: {hint}", "");
                }
            }
        }
        if findings.iter().any(|f| f.level == Level::Failed) {
            return Err(
                Error::new(ErrorKind::Engine, "bottles cannot run here").hint("see FAILED above")
            );
        }
        Ok(0)
    }
}

fn state() -> Finding {
    match Roots::from_environment() {
        Ok(roots) => match roots.bottle("a").map(|b| b.runtime().to_string()) {
            Ok(path) => finding(
                "state",
                Level::Ok,
                format!("private, sockets below {}", path.trim_end_matches("/a")),
                None,
            ),
            Err(e) => failed("state", &e),
        },
        Err(e) => failed("state", &e),
    }
}

fn closure() -> Finding {
    let verified = || -> Result<String> {
        let closure = Closure::load()?;
        let roots = Roots::from_environment()?;
        for image in closure.images.values() {
            closure.verify(image, "qemu", &roots.verified())?;
            if closure.engines.smolvm.is_some() {
                closure.verify(image, "smolvm", &roots.verified())?;
            }
        }
        let images: Vec<&str> =
            closure.images.keys().chain(closure.deferred.keys()).map(String::as_str).collect();
        Ok(format!(
            "{}, qemu {}, images: {}",
            closure.system,
            closure.engines.qemu.version,
            images.join(", ")
        ))
    };
    verified().map_or_else(
        |e| failed("closure", &e),
        |detail| finding("closure", Level::Ok, detail, None),
    )
}

/// The engine that `--engine auto` selects.
fn engine() -> Finding {
    let closure = Closure::load().ok();
    let (level, detail) = auto(
        virtualisation(),
        closure.as_ref().and_then(|c| c.engines.smolvm.as_ref()).map(|s| s.version.as_str()),
    );
    finding("engine", level, detail, None)
}

fn auto(virtualisation: Virtualisation, smolvm: Option<&str>) -> (Level, String) {
    let version = |smolvm: &str| format!("smolvm {smolvm} (tested: {SMOLVM_TESTED})");
    match (virtualisation, smolvm) {
        (Virtualisation::Kvm, Some(smolvm)) => {
            let level = if smolvm == SMOLVM_TESTED { Level::Ok } else { Level::Warning };
            (level, format!("auto takes {}, with KVM", version(smolvm)))
        }
        (Virtualisation::Kvm, None) => {
            (Level::Ok, "auto takes qemu, with KVM; this closure has no smolvm".into())
        }
        (Virtualisation::None(why), smolvm) => {
            let smolvm = smolvm.map_or_else(|| "smolvm".into(), version);
            (
                Level::Warning,
                format!("auto takes qemu, emulated and slower: {smolvm} cannot run, as {why}"),
            )
        }
    }
}

/// Confines a harmless command as the engine is confined.
fn confinement() -> Finding {
    let Ok(closure) = Closure::load() else {
        return finding("confinement", Level::Failed, "not tried: there is no closure", None);
    };
    let bundle = &closure.bundle.binary.path;
    let program = Program::new("bottle-bundle", bundle)
        .args(["confine", "--no-network", "--rx"])
        .arg(bundle)
        .arg("--")
        .arg(bundle)
        .arg("--version");
    match program.output(CONFINEMENT_DEADLINE) {
        Ok(None) => finding("confinement", Level::Failed, "the trial did not end", None),
        Ok(Some(tried)) if tried.status.success() => {
            finding("confinement", Level::Ok, "the engine gets namespaces of its own", None)
        }
        Ok(Some(tried)) => finding(
            "confinement",
            Level::Failed,
            String::from_utf8_lossy(&tried.stderr)
                .lines()
                .last()
                .unwrap_or("no reason given")
                .to_owned(),
            Some(
                "allow user namespaces: sysctl user.max_user_namespaces=10000; \
                 on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ),
        Err(e) => finding("confinement", Level::Failed, format!("{bundle}: {e}"), None),
    }
}

fn landlock() -> Finding {
    // landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)
    // SAFETY: with a null pointer and size 0 the call only returns the ABI version.
    let abi = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            1_u32,
        )
    };
    if abi > 0 {
        finding("landlock", Level::Ok, format!("ABI {abi}: daemons see only their own files"), None)
    } else {
        finding(
            "landlock",
            Level::Failed,
            "the kernel has no Landlock, so daemons cannot be confined",
            Some("boot with lsm=landlock,… (Linux 5.13 or newer)"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_told_with_versions_and_why() {
        let (level, detail) = auto(Virtualisation::Kvm, Some(SMOLVM_TESTED));
        assert_eq!(
            (level, detail),
            (
                Level::Ok,
                format!("auto takes smolvm {SMOLVM_TESTED} (tested: {SMOLVM_TESTED}), with KVM")
            )
        );
        let (level, detail) = auto(Virtualisation::Kvm, Some("9.9"));
        assert!(level == Level::Warning && detail.contains("smolvm 9.9 (tested: "), "{detail}");
        let (level, detail) =
            auto(Virtualisation::None("there is no /dev/kvm".into()), Some(SMOLVM_TESTED));
        assert!(
            level == Level::Warning
                && detail.contains("takes qemu")
                && detail.ends_with("there is no /dev/kvm"),
            "{detail}"
        );
        assert_eq!(auto(Virtualisation::Kvm, None).0, Level::Ok);
    }
}
