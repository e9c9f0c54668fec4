//! A bottle's workspace, taken out as tar by a script in the guest and unpacked into a private
//! directory of the host.

use std::io::Read;
use std::path::Path;

use bottle_channel::untar::{Limits, UntarError, extract_hostile_but};

use super::{Baseline, Guards};
use crate::error::{Context, Error, Kind, Result};

/// How much a guest may write to the host at once: files, bytes.
pub const MOST: Limits = Limits { entries: 300_000, bytes: 8 << 30 };
/// Most refusals that are told one by one.
const MOST_TOLD: usize = 1000;

/// What was refused of a guest's tar: name and reason.
pub type Taken = Vec<(String, String)>;

/// Run by `bash -c` in the guest, as the agent, with the names that went in on standard input,
/// separated by NUL: prints as tar what of them is there still, and what git would add.
#[must_use]
pub const fn script() -> &'static str {
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

/// The names of `baseline` for [`script`].
#[must_use]
pub fn input(baseline: &Baseline) -> Vec<u8> {
    baseline.files.keys().flat_map(|name| name.bytes().chain([0])).collect()
}

/// Unpacks `tar` into the empty directory `into`; what may not be is left out and told.
///
/// # Errors
/// `Config` when the tar is broken or too large: a part of it would look like deletions.
pub fn unpack<R: Read>(tar: R, into: &Path, guards: Guards) -> Result<Taken> {
    let mut refused = Taken::new();
    let told = |error: &UntarError| {
        let (name, why) = match error {
            UntarError::Path(name) => (name, "its name leads out of the project".to_owned()),
            UntarError::Link(name, target) => (name, format!("a link that leads out: {target}")),
            UntarError::Kind(name, kind) => (name, format!("neither file nor link ({kind})")),
            _ => return false,
        };
        if refused.len() < MOST_TOLD {
            refused.push((name.clone(), why));
        }
        true
    };
    extract_hostile_but(tar, into, MOST, guards.links, told)
        .map_err(|e| Error::new(Kind::Config, format!("what the bottle gives is refused: {e}")))
        .context(Kind::Config, || "nothing was taken".into())?;
    Ok(refused)
}
