//! Paths, symbolic links and submodules of a tree that are dangerous to check out.

use bottle_policy::text::{is_joiner, is_unprintable};

use crate::git_gate::refusal::Rule;

/// Why `path` is refused, if it is.
#[must_use]
pub fn path(path: &str) -> Option<(Rule, String)> {
    // Windows treats both characters as separators.
    for component in path.split(['/', '\\']) {
        if is_dot_git(component) {
            return Some((Rule::DotGit, format!("{component:?} means .git on some systems")));
        }
        if matches!(component, "." | "..") || (component.is_empty() && path.contains('/')) {
            return Some((Rule::DotGit, format!("{component:?} is not a file name")));
        }
    }
    if path.contains(|c| is_unprintable(c) && !is_joiner(c)) {
        return Some((Rule::PathText, "a path has control or invisible characters".to_owned()));
    }
    None
}

/// Whether some file system reads `name` as `.git`: case-insensitive ones, HFS+, which ignores some
/// characters, and NTFS with its short names, trailing dots and spaces, and streams (compare git's
/// `is_hfs_dotgit` and `is_ntfs_dotgit`).
#[must_use]
pub fn is_dot_git(name: &str) -> bool {
    let ignored = |c: &char| !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let folded: String = name.chars().filter(ignored).flat_map(char::to_lowercase).collect();
    let ntfs = folded.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    ntfs == ".git" || ntfs == "git~1"
}

/// Why a symbolic link at `path` to `target` is refused, if it is.
#[must_use]
pub fn symlink(path: &str, target: &str) -> Option<(Rule, String)> {
    let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    if [".gitmodules", ".gitattributes", ".gitignore", ".mailmap"].contains(&name.as_str()) {
        return Some((Rule::Symlink, format!("{name} is a symbolic link")));
    }
    let windows = target.contains('\\') || target.as_bytes().get(1) == Some(&b':');
    if target.starts_with('/') || windows || target.is_empty() {
        return Some((Rule::Symlink, "a symbolic link points out of the tree".to_owned()));
    }
    let mut depth = path.split('/').count() - 1;
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => {
                    return Some((
                        Rule::Symlink,
                        "a symbolic link points out of the tree".to_owned(),
                    ));
                }
            },
            _ if is_dot_git(component) => {
                return Some((Rule::Symlink, "a symbolic link points into .git".to_owned()));
            }
            _ => depth += 1,
        }
    }
    None
}

/// Why a `.gitmodules` is refused, if it is, and by which line (from 1).
#[must_use]
pub fn gitmodules(text: &str) -> Option<(Rule, String, usize)> {
    // A backslash at the end of a line continues it.
    let joined = text.replace("\\\n", "").replace("\\\r\n", "");
    for (number, line) in (1..).zip(joined.lines()) {
        let Some((key, value)) = line.split_once('=') else { continue };
        // The section's name may be on the same line.
        let key = key.rsplit(']').next().unwrap_or_default().trim().to_ascii_lowercase();
        // Quotes and escapes of git-config(1) are ignored, so that they cannot hide anything.
        let plain: String = value.chars().filter(|c| !"\"\\".contains(*c)).collect();
        let value = plain.trim();
        let found = match key.as_str() {
            "url" => submodule_url(value),
            "update" if value.starts_with('!') => Some("a submodule's update is a command"),
            "path" if value.starts_with('-') || path(value).is_some() => {
                Some("a submodule's path is not valid")
            }
            _ => None,
        };
        if let Some(why) = found {
            return Some((Rule::Submodule, why.to_owned(), number));
        }
    }
    None
}

fn submodule_url(url: &str) -> Option<&'static str> {
    if url.starts_with('-') || url.contains("::") {
        return Some("a submodule's URL runs a command");
    }
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user)?;
    let http = scheme.to_ascii_lowercase().starts_with("http");
    (http || user.contains(':')).then_some("a submodule's URL carries a credential")
}

/// Files in which gitleaks' own configuration disables its generic rule: their hashes look random.
const LOCK_FILES: &[&str] = &[
    "go.sum",
    "go.mod",
    "package-lock.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "Cargo.lock",
    "poetry.lock",
    "uv.lock",
    "Pipfile.lock",
    "composer.lock",
    "Gemfile.lock",
    "npm-shrinkwrap.json",
    "deno.lock",
    "flake.lock",
    "gradle.lockfile",
];

/// Whether `path` is a package manager's lock file.
#[must_use]
pub fn is_lock_file(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| LOCK_FILES.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_dot_git_is_recognised() {
        for bad in [
            ".git",
            ".GIT",
            ".gIt",
            ".git.",
            ".git ",
            "git~1",
            "GIT~1",
            ".g\u{200c}it",
            ".git::$INDEX_ALLOCATION",
            ".git. . ",
        ] {
            assert!(is_dot_git(bad), "{bad:?}");
            assert!(path(&format!("a/{bad}/hooks")).is_some(), "{bad:?}");
        }
        for good in [".gitignore", ".github", "git", "a.git", "git~2", ".gitmodules"] {
            assert!(!is_dot_git(good), "{good:?}");
        }
        for bad in ["a\\.git\\x", "a/../b", "a\nb", "a\x1b[2J", "a/\u{202e}b", "..\\x", "a//b"] {
            assert!(path(bad).is_some(), "{bad:?}");
        }
        assert!(
            path("a b/ü.txt").is_none()
                && path(".github/x").is_none()
                && path("👩\u{200d}🚀").is_none()
        );
    }

    #[test]
    fn links_stay_in_the_tree() {
        for (at, to) in [
            ("a", "/etc"),
            ("a", ".."),
            ("a/b", "../.."),
            ("a", "b/../../c"),
            ("a", "C:\\x"),
            ("a", ".git/config"),
            ("x/.gitmodules", "a"),
            ("a", ""),
        ] {
            assert!(symlink(at, to).is_some(), "{at} -> {to}");
        }
        for (at, to) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d/./e"), ("a", "..x")] {
            assert!(symlink(at, to).is_none(), "{at} -> {to}");
        }
    }

    #[test]
    fn submodules_carry_nothing() {
        let bad = |text: &str| gitmodules(text).map(|(rule, _, line)| (rule, line));
        assert_eq!(
            bad("[submodule \"x\"]\n\turl = https://tok@h.test/x"),
            Some((Rule::Submodule, 2))
        );
        assert!(
            bad("URL=ssh://me:pw@h.test/x").is_some()
                && bad("url = ext::sh -c x").is_some()
                && bad("update = !x").is_some()
        );
        assert!(
            bad("[submodule \"x\"] url = https://tok@h.test/x").is_some()
                && bad("url = https://to\\\nk@h.test/x").is_some()
        );
        assert!(
            bad("url = \"https\"://tok\"@\"h.test/x").is_some() && bad("url = \"-x\"").is_some()
        );
        assert!(
            bad("url = -x").is_some()
                && bad("path = -x").is_some()
                && bad("path = a/.GIT").is_some()
        );
        assert!(
            bad("url = ssh://git@h.test/x\npath = a\nurl = ../y\nurl = git@h.test:x").is_none()
        );
    }
}
