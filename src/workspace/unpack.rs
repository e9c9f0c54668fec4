//! Unpacks a bottle's workspace, which a script in the guest prints as tar, into a private directory
//! of the host.

use std::io::Read;
use std::path::Path;

use bottle_channel::untar::{Limits, UntarError, extract_hostile_but};

use super::baseline::Baseline;
use super::checks::WorkspaceChecks;
use crate::error::{Context, ErrorKind, Result};

/// How much a guest may write to the host at once.
pub const UNPACK_LIMITS: Limits = Limits { entries: 300_000, bytes: 8 << 30 };
/// Most refused files that are reported one by one.
const MAX_REFUSALS: usize = 1000;

/// Files of a guest's tar that were refused: name and reason.
pub type RefusedFiles = Vec<(String, String)>;

/// A script for `bash -c` in the guest, run as the agent. It reads the names that went in from
/// standard input, separated by NUL, and prints as tar those that still exist and those that git
/// would add.
#[must_use]
pub const fn tar_script() -> &'static str {
    r#"set -o pipefail; cd "$0" || exit 9
g() { git -c core.fsmonitor=false -c safe.directory='*' "$@"; }
if g rev-parse --git-dir > /dev/null 2>&1; then
  list() { g ls-files -z --cached --others --exclude-standard; }
else
  d=$(mktemp -d) && g init -q --bare "$d" || exit 8
  list() { g --git-dir="$d" --work-tree=. ls-files -z --others --exclude-standard; }
fi
{ cat; list; } | sort -zu | while IFS= read -rd '' f; do { [ -f "$f" ] || [ -L "$f" ]; } && printf '%s\0' "$f"; done > /tmp/.bottle-taken.$$
tar --format=gnu --no-recursion --null --verbatim-files-from -cf - -T /tmp/.bottle-taken.$$
status=$?; rm -f /tmp/.bottle-taken.$$; exit $status"#
}

/// The names in `baseline`, as standard input of [`tar_script`].
#[must_use]
pub fn tar_input(baseline: &Baseline) -> Vec<u8> {
    baseline.files.keys().flat_map(|name| name.bytes().chain([0])).collect()
}

/// Unpacks `tar` into the empty directory `into`, and returns the files that were refused.
///
/// # Errors
/// `Config` when the tar is broken or too large: a part of it would look like deletions.
pub fn unpack<R: Read>(tar: R, into: &Path, checks: WorkspaceChecks) -> Result<RefusedFiles> {
    let mut refused = RefusedFiles::new();
    let skip = |error: &UntarError| {
        let (name, why) = match error {
            UntarError::Path(name) => (name, "its name leads out of the project".to_owned()),
            UntarError::Link(name, target) => (name, format!("a link that leads out: {target}")),
            UntarError::Kind(name, kind) => (name, format!("neither file nor link ({kind})")),
            _ => return false,
        };
        if refused.len() < MAX_REFUSALS {
            refused.push((name.clone(), why));
        }
        true
    };
    extract_hostile_but(tar, into, UNPACK_LIMITS, checks.links, skip)
        .context(ErrorKind::Config, || "refused the bottle's files".into())?;
    Ok(refused)
}
