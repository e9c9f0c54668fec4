//! smolvm's error reports, in our words and with what helps.

use camino::Utf8Path;
use serde::Deserialize;

use super::layout::console;
use crate::error::{Error, ErrorKind};
use crate::host::process::Daemon;
use crate::values::neutral;

/// The hint for a damaged image.
pub(super) const REPACK_HINT: &str = "nix/bootstrap build .#bottle   # packs the image anew";

/// One line of smolvm's own errors.
#[derive(Deserialize)]
struct Reported {
    error: ReportedError,
}

#[derive(Deserialize)]
struct ReportedError {
    message: String,
}

/// Why the process `vmm`, whose output is in `log` and whose machine is in `dir`, ended too early.
pub(super) async fn failure(vmm: &mut Daemon, log: &Utf8Path, dir: &Utf8Path) -> Error {
    let failure = vmm.failure().await;
    let output = std::fs::read_to_string(log).unwrap_or_default();
    let startup = console(dir).with_file_name("agent-startup-error.log");
    let startup = std::fs::read_to_string(startup).unwrap_or_default();
    explain(&output, &startup).unwrap_or(failure)
}

/// The error that smolvm reported in a line of JSON, among other lines of its output, with a hint;
/// `None` when it reported nothing. `startup` is the log of its guest agent's start.
fn explain(output: &str, startup: &str) -> Option<Error> {
    let reported =
        output.lines().rev().find_map(|line| serde_json::from_str::<Reported>(line.trim()).ok())?;
    let message = neutral(&reported.error.message).to_string();
    let all = format!("{message} {startup}").to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| all.contains(w));
    let (kind, hint) = if has(&["kvmopen(error(13", "/dev/kvm: permission"]) {
        (
            ErrorKind::Engine,
            "sudo usermod -aG kvm $USER   # and log in again; or: sudo setfacl -m u:$USER:rw /dev/kvm",
        )
    } else if has(&["kvmopen", "/dev/kvm"]) {
        (ErrorKind::Engine, "--engine qemu")
    } else if has(&["no space left", "enospc", "disk full"]) {
        (
            ErrorKind::Io,
            "df -h ~/.local/state   # free some space, or ask for a smaller resources.disk",
        )
    } else if has(&["checksum", "crc", "invalid magic", "truncated", "unsupported version"]) {
        (ErrorKind::Engine, REPACK_HINT)
    } else if has(&["libkrun", "dlopen"]) {
        (ErrorKind::Engine, "nix/bootstrap build .#bottle   # builds smolvm's libraries again")
    } else {
        (ErrorKind::Engine, "bottle doctor")
    };
    Some(Error::new(kind, format!("smolvm: {message}")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of(line: &str, startup: &str) -> (ErrorKind, String) {
        let error = explain(line, startup).expect("an error");
        (error.kind(), error.hint_text().unwrap_or_default().to_owned())
    }

    #[test]
    fn errors_are_found_among_other_lines_and_get_a_hint() {
        let said = "note: no packed assets found\n\u{1b}[33mWARN\u{1b}[0m x\n{\"error\":{\"code\":\"SMOLVM_ERROR\",\"message\":\"agent process exited\"}}\nbye\n";
        let error = explain(said, "").expect("an error");
        assert_eq!(error.to_string(), "smolvm: agent process exited");
        assert_eq!(error.hint_text(), Some("bottle doctor"));
        assert!(explain("note: nothing\n", "").is_none());
    }

    #[test]
    fn each_fault_has_its_hint() {
        let line =
            |m: &str| format!("{{\"error\":{{\"code\":\"SMOLVM_ERROR\",\"message\":\"{m}\"}}}}");
        for (message, startup, kind, hint) in [
            ("start failed", "krun: KvmOpen(Error(13))", ErrorKind::Engine, "usermod"),
            ("start failed", "KvmOpen(Error(2))", ErrorKind::Engine, "--engine qemu"),
            (
                "write storage.raw: No space left on device (os error 28)",
                "",
                ErrorKind::Io,
                "df -h",
            ),
            ("pack checksum mismatch", "", ErrorKind::Engine, "packs the image anew"),
            ("cannot load libkrun.so", "", ErrorKind::Engine, "libraries"),
        ] {
            let (found, said) = hint_of(&line(message), startup);
            assert!(found == kind && said.contains(hint), "{message}: {said}");
        }
    }

    #[test]
    fn a_message_cannot_write_to_the_terminal() {
        let error = explain("{\"error\":{\"code\":\"X\",\"message\":\"a\\u001b[2Jb\"}}", "")
            .expect("an error");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}
