//! What a scan finds.

use std::collections::HashSet;
use std::fmt;

use bottle_policy::Fingerprint;
use zeroize::Zeroizing;

use super::gitleaks::GitleaksFinding;
use super::text_window::TextWindow;
use super::tree_paths::is_lock_file;
use crate::git_gate::object_id::ObjectId;
use crate::git_gate::refusal::Rule;
use crate::git_gate::text::printable;

/// The scanner's rule for the bundle's own secrets, which nobody can allow.
pub const OWN_SECRET: &str = "bundle-secret";

/// Shortest evidence, in bytes, that is compared with what the upstream has.
const MIN_EVIDENCE_BYTES: usize = 8;

/// Rules of our scanner that ordinary code triggers. They only warn, as they do in egress.
const WARN_ONLY: &[&str] = &[
    "jwt",
    "url-password",
    "authorization-header",
    "netrc",
    "basic-auth-header",
    "assigned-secret",
];

/// A reason not to push something, or to warn about it.
#[derive(Debug)]
pub struct Finding {
    /// The rule of git-gate.
    pub kind: Rule,
    /// The id of the scanner's rule.
    pub rule: String,
    /// Where it is, for example a commit and a path.
    pub place: String,
    /// Its line, from 1; 0 if it has none.
    pub line: u64,
    /// A redacted sample.
    pub sample: String,
    /// The fingerprint by which an operator can allow it.
    pub fingerprint: Fingerprint,
    /// True if it only warns.
    pub warn: bool,
    /// What it is evidence of.
    pub evidence: Evidence,
}

/// What a finding consists of.
#[derive(Debug)]
pub struct Evidence {
    /// Number of the scanned object; `usize::MAX` for a finding about a path.
    pub object: usize,
    /// The path of the object; empty if it has none.
    pub path: String,
    /// The text that was found, or the id of an object that contains it.
    pub value: Zeroizing<Vec<u8>>,
    /// Whether `value` is the text itself.
    pub literal: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, " {} {} (fingerprint {})", self.rule, self.sample, self.fingerprint)
    }
}

impl Finding {
    /// Whether this is a secret in the file `path` whose text is in `content`, an older version of
    /// the file that the upstream has. Then nothing new leaves.
    #[must_use]
    pub fn is_in_old_version(&self, path: &str, content: &[u8]) -> bool {
        self.evidence.path == path
            && self.kind == Rule::Secret
            && self.rule != OWN_SECRET
            && self.evidence.literal
            && self.evidence.value.len() >= MIN_EVIDENCE_BYTES
            && contains(content, &self.evidence.value)
    }
}

/// One unit of text, such as a file or a commit message.
#[derive(Debug)]
struct ScannedObject {
    /// For messages.
    place: String,
    /// Its path; empty if it has none.
    path: String,
}

/// The findings of one push.
#[derive(Debug, Default)]
pub struct Findings {
    /// All findings.
    pub list: Vec<Finding>,
    objects: Vec<ScannedObject>,
}

impl Findings {
    /// Starts the next object. Returns its number, from 0.
    pub fn begin_object(&mut self, place: &str, path: &str) -> usize {
        self.objects.push(ScannedObject { place: place.to_owned(), path: path.to_owned() });
        self.objects.len() - 1
    }

    /// Adds what the scanner found in the object `number`, whose id is `id`.
    pub fn add_stream_findings(
        &mut self,
        number: usize,
        id: &ObjectId,
        window: &TextWindow,
        found: &mut Vec<bottle_scan::Finding>,
    ) {
        for found in found.drain(..) {
            let place = self.objects[number].place.clone();
            let compressed =
                matches!(&*found.rule, "coding" | "coding-bomb") || window.looks_compressed();
            // Inside a compressed file neither line nor text is known. The evidence is the file.
            let text = window
                .evidence(found.offset)
                .filter(|text| !compressed && text.len() >= MIN_EVIDENCE_BYTES);
            let (line, evidence) = match text {
                Some(text) => (window.line_number(found.offset), (text, true)),
                None => (0, (Zeroizing::new(id.as_str().as_bytes().to_vec()), false)),
            };
            self.add_scan_finding(number, &found, (place, line), evidence);
        }
    }

    /// Adds a finding of the scanner. `value` is its evidence, see [`Evidence`].
    pub fn add_scan_finding(
        &mut self,
        object: usize,
        found: &bottle_scan::Finding,
        (place, line): (String, u64),
        (value, literal): (Zeroizing<Vec<u8>>, bool),
    ) {
        let own = &*found.rule == OWN_SECRET;
        let rule = found.rule.to_string();
        let hashed: &[u8] = if own { b"" } else { &value };
        let sample = if own {
            found.secret.as_ref().map_or_else(String::new, |name| format!("(the bundle's {name})"))
        } else {
            found.sample.clone()
        };
        let path = self.objects[object].path.clone();
        self.list.push(Finding {
            kind: Rule::Secret,
            fingerprint: Fingerprint::of(&rule, hashed),
            warn: WARN_ONLY.contains(&rule.as_str()),
            rule,
            place,
            line,
            sample,
            evidence: Evidence { object, path, value, literal },
        });
    }

    /// Adds a finding about a path or a special file. `evidence` makes its fingerprint.
    pub fn add_path_finding(
        &mut self,
        kind: Rule,
        why: &str,
        place: &str,
        line: u64,
        evidence: &str,
    ) {
        let (path, value) = (evidence.to_owned(), Zeroizing::default());
        self.list.push(Finding {
            kind,
            rule: kind.code().to_owned(),
            place: place.to_owned(),
            line,
            sample: why.to_owned(),
            fingerprint: Fingerprint::of(kind.code(), evidence.as_bytes()),
            warn: false,
            evidence: Evidence { object: usize::MAX, path, value, literal: false },
        });
    }

    /// Adds what gitleaks found, unless the scanner has found the same.
    pub fn add_gitleaks_findings(&mut self, found: Vec<GitleaksFinding>) {
        for found in found {
            let Some(ScannedObject { place, path }) = self.objects.get(found.object) else {
                continue;
            };
            if found.rule == "generic-api-key" && is_lock_file(path) {
                continue;
            }
            let value = found.secret.as_bytes();
            // What both scanners found is one finding, with one fingerprint.
            let known = self.list.iter().any(|f| {
                f.evidence.object == found.object
                    && !f.warn
                    && f.line == found.line
                    && (contains(&f.evidence.value, value) || contains(value, &f.evidence.value))
            });
            if known {
                continue;
            }
            let shown = if found.secret.len() >= 12 { 4 } else { 0 };
            let start: String = found.secret.chars().take(shown).collect();
            let has_line = !path.is_empty() || place.ends_with("message");
            self.list.push(Finding {
                kind: Rule::Secret,
                fingerprint: Fingerprint::of(&found.rule, value),
                place: place.clone(),
                line: if has_line { found.line } else { 0 },
                sample: format!("{}****", printable(&start)),
                warn: false,
                evidence: Evidence {
                    object: found.object,
                    path: path.clone(),
                    value: Zeroizing::new(value.to_vec()),
                    literal: true,
                },
                rule: found.rule,
            });
        }
        // A warning at the place of a finding adds nothing.
        let refused: HashSet<(usize, u64)> =
            self.list.iter().filter(|f| !f.warn).map(|f| (f.evidence.object, f.line)).collect();
        self.list.retain(|f| !f.warn || !refused.contains(&(f.evidence.object, f.line)));
    }
}

/// Whether `part`, which must not be empty, is in `text`.
fn contains(text: &[u8], part: &[u8]) -> bool {
    let Some(first) = part.first() else { return false };
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| b == first) {
        if rest[at..].starts_with(part) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_that_only_warn_exist() {
        let scanner = bottle_scan::Scanner::new(&[]);
        assert!(WARN_ONLY.iter().all(|id| scanner.rules().any(|rule| rule == *id)));
    }
}
