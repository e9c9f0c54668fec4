//! Which names of a guest are taken.

use std::path::{Component, Path};

use bottle_policy::text::{is_joiner, is_unprintable};

/// Longest path and longest part of one, bytes.
const LONGEST: (usize, usize) = (4096, 255);
/// Characters that HFS+ and others leave out when they compare names.
const IGNORED: [char; 17] = [
    '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}',
    '\u{202e}', '\u{206a}', '\u{206b}', '\u{206c}', '\u{206d}', '\u{206e}', '\u{206f}', '\u{feff}',
    '\u{200b}',
];

/// Why `path`, relative to the project, is not taken.
///
/// # Errors
/// One word or two for the operator.
pub fn check(path: &Path) -> Result<(), &'static str> {
    let Some(text) = path.to_str() else { return Err("its name is not UTF-8") };
    if text.is_empty() || text.len() > LONGEST.0 {
        return Err("its name is empty or too long");
    }
    if text.contains(|c| is_unprintable(c) && !is_joiner(c)) {
        return Err("its name has control or invisible characters");
    }
    for component in path.components() {
        let Component::Normal(name) = component else {
            return Err("its name leads out of the project");
        };
        let name = name.to_str().unwrap_or_default();
        if name.len() > LONGEST.1 {
            return Err("its name is empty or too long");
        }
        if is_git(name) {
            return Err("it belongs to git");
        }
    }
    Ok(())
}

/// Whether some file system takes `name` for `.git`.
pub fn is_git(name: &str) -> bool {
    let plain: String =
        name.chars().filter(|c| !IGNORED.contains(c)).flat_map(char::to_lowercase).collect();
    // NTFS: streams after a colon, trailing dots and spaces, backslashes as separators, and short
    // names.
    plain.split('\\').any(|part| {
        let part = part.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
        part == ".git"
            || part
                .strip_prefix("git~")
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// Whether a link at `path` with this target stays inside of the project and out of git's files.
/// Going up is allowed only at the start: after a name, which may itself be a link to somewhere
/// higher, `..` could leave the tree.
pub fn link(path: &Path, target: &Path) -> bool {
    let depth = path.components().count().saturating_sub(1);
    let (mut ups, mut names) = (0, 0);
    for component in target.components() {
        match component {
            Component::ParentDir if names == 0 => ups += 1,
            Component::Normal(name) if !name.to_str().is_none_or(is_git) => names += 1,
            Component::CurDir => {}
            _ => return false,
        }
    }
    target != Path::new("") && ups <= depth
}

/// Whether the file says what a bottle may do, or what runs on the host at its launch: `inside` is
/// where the manifest's directory is in the project.
pub fn is_manifest(path: &Path, inside: &Path) -> bool {
    let Ok(rest) = path.strip_prefix(inside) else { return false };
    let mut parts = rest.components().map(|c| c.as_os_str().to_string_lossy().to_lowercase());
    matches!(parts.next().as_deref(), Some("bottle.toml" | "agents" | "skills"))
}

/// Whether a program of the host runs the file by itself once it is there.
pub fn runs_by_itself(path: &Path) -> bool {
    let parts: Vec<String> =
        path.components().map(|c| c.as_os_str().to_string_lossy().to_lowercase()).collect();
    let name = parts.last().map_or("", String::as_str);
    let dirs = [
        ".vscode",
        ".idea",
        ".husky",
        ".githooks",
        ".devcontainer",
        ".claude",
        ".codex",
        ".cursor",
    ];
    matches!(
        name,
        ".envrc"
            | ".gitattributes"
            | ".gitmodules"
            | ".gitconfig"
            | ".mise.toml"
            | ".tool-versions"
            | ".bazelrc"
            | "build.rs"
            | ".mcp.json"
    ) || parts.iter().any(|p| dirs.contains(&p.as_str()))
        || parts.starts_with(&[".github".to_owned(), "workflows".to_owned()])
        || parts.starts_with(&[".cargo".to_owned()])
}
