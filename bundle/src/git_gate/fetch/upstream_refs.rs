//! The refs of an upstream or a mirror, as git lists them.

use std::collections::BTreeMap;

use crate::git_gate::object_id::ObjectId;
use crate::git_gate::text::is_ref_name;

/// Ids of refs by full name.
pub type Refs = BTreeMap<String, ObjectId>;

/// What an upstream has.
#[derive(Debug, Clone, Default)]
pub struct UpstreamRefs {
    /// Branches and tags.
    pub refs: Refs,
    /// The objects that annotated tags point to, by the tag's name.
    pub peeled: Refs,
    /// The full name of the branch that HEAD points to.
    pub head: Option<String>,
}

impl UpstreamRefs {
    /// Parses `git ls-remote --symref`.
    #[must_use]
    pub fn parse(output: &[u8]) -> Self {
        let head = output.split(|b| *b == b'\n').find_map(|line| {
            let target = line.strip_prefix(b"ref: ")?.strip_suffix(b"\tHEAD")?;
            String::from_utf8(target.to_vec())
                .ok()
                .filter(|name| name.starts_with("refs/heads/") && is_ref_name(name))
        });
        Self { refs: parse_refs(output, b'\t', ""), peeled: parse_refs(output, b'\t', "^{}"), head }
    }
}

/// Reads lines of an id, `separator`, and a name that ends in `suffix`, which is removed. Lines
/// that are not about branches or tags are left out.
#[must_use]
pub fn parse_refs(output: &[u8], separator: u8, suffix: &str) -> Refs {
    let line = |line: &[u8]| {
        let (id, name) = line.split_at_checked(40)?;
        let name = std::str::from_utf8(name.strip_prefix(&[separator])?).ok()?;
        let name = name.strip_suffix(suffix)?;
        let wanted = (name.starts_with("refs/heads/") || name.starts_with("refs/tags/"))
            && !name.ends_with("^{}");
        Some((name.to_owned(), ObjectId::parse(id).filter(|_| wanted)?))
    };
    output.split(|b| *b == b'\n').filter_map(line).collect()
}

/// Whether a listing has ids of SHA-256: 64 hex digits instead of 40.
#[must_use]
pub fn has_sha256_ids(output: &[u8]) -> bool {
    output.split(|b| *b == b'\n').any(|l| l.len() > 64 && l[..64].iter().all(u8::is_ascii_hexdigit))
}
