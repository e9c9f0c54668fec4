//! Skills: directories with a `SKILL.md`, copied whole. Links are resolved, and none leads out of
//! its skill.

use std::fs;
use std::path::Path;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::plan::LaunchPlan;

/// Most files of all skills of a bottle.
const MAX_FILES: usize = 10_000;
/// Most bytes of all skills of a bottle.
const MAX_BYTES: u64 = 64 << 20;
/// Deepest nesting of directories.
const MAX_DEPTH: usize = 32;

/// The tar of the plan's skills, relative to the agent's home; `None`: there are none.
///
/// # Errors
/// `Config` when one is gone, has a link that leads out of it, or is too large.
pub fn pack(plan: &LaunchPlan) -> Result<Option<Vec<u8>>> {
    if plan.skills.is_empty() {
        return Ok(None);
    }
    let mut packed = Packed { tar: tar::Builder::new(Vec::new()), files: 0, bytes: 0 };
    for skill in &plan.skills {
        let what = || format!("skill {}", skill.name);
        let root = skill.dir.canonicalize().context(ErrorKind::Config, what)?;
        if !root.join("SKILL.md").is_file() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{}: {} has no SKILL.md", what(), root.display()),
            ));
        }
        let to = Path::new(plan.provider.skills_dir).join(skill.name.as_str());
        packed.add(&root, &root, &to, 0).map_err(|e| e.within(what()))?;
    }
    packed
        .tar
        .into_inner()
        .map(Some)
        .context(ErrorKind::Internal, || "cannot pack the skills".into())
}

struct Packed {
    tar: tar::Builder<Vec<u8>>,
    files: usize,
    bytes: u64,
}

impl Packed {
    fn add(&mut self, root: &Path, from: &Path, to: &Path, depth: usize) -> Result<()> {
        let what = || format!("cannot read {}", from.display());
        let real = from.canonicalize().context(ErrorKind::Config, what)?;
        if !real.starts_with(root) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} leads out of the skill by a symbolic link", from.display()),
            ));
        }
        let meta = fs::metadata(&real).context(ErrorKind::Config, what)?;
        if meta.is_dir() {
            if depth > MAX_DEPTH {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "{} is too deep, or a link to a directory above itself",
                        from.display()
                    ),
                ));
            }
            let mut entries: Vec<_> = fs::read_dir(&real)
                .context(ErrorKind::Config, what)?
                .filter_map(|e| e.ok().map(|e| e.file_name()))
                .collect();
            entries.sort();
            return entries
                .iter()
                .try_for_each(|name| self.add(root, &real.join(name), &to.join(name), depth + 1));
        }
        if !meta.is_file() {
            return Ok(());
        }
        self.files += 1;
        self.bytes += meta.len();
        if self.files > MAX_FILES || self.bytes > MAX_BYTES {
            return Err(Error::new(
                ErrorKind::Config,
                format!("more than {} files or {} MiB", MAX_FILES, MAX_BYTES >> 20),
            ));
        }
        let content = fs::read(&real).context(ErrorKind::Config, what)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(if std::os::unix::fs::MetadataExt::mode(&meta) & 0o100 == 0 {
            0o644
        } else {
            0o755
        });
        header.set_mtime(0);
        self.tar.append_data(&mut header, to, content.as_slice()).context(ErrorKind::Internal, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Skill;
    use crate::plan::tests::demo_plan;

    fn pack_of(dir: &Path) -> Result<Option<Vec<u8>>> {
        let mut plan = demo_plan();
        plan.skills = vec![Skill { name: "review".parse().unwrap(), dir: dir.to_owned() }];
        pack(&plan)
    }

    #[test]
    fn links_inside_are_resolved_and_links_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let skill = dir.path().join("review");
        fs::create_dir_all(skill.join("more")).unwrap();
        fs::write(skill.join("SKILL.md"), "how").unwrap();
        fs::write(dir.path().join("secret"), "s3cret").unwrap();
        std::os::unix::fs::symlink("../SKILL.md", skill.join("more/link")).unwrap();
        let tar = pack_of(&skill).unwrap().unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| (e.as_ref().unwrap().path().unwrap().into_owned(), e.unwrap().size()))
            .collect();
        assert_eq!(
            names,
            [
                (".claude/skills/review/SKILL.md".into(), 3),
                (".claude/skills/review/more/link".into(), 3)
            ]
        );
        for target in ["../secret", "/etc/passwd", ".."] {
            let link = skill.join("out");
            std::os::unix::fs::symlink(target, &link).unwrap();
            let e = pack_of(&skill).unwrap_err().chain();
            assert!(
                e.contains("leads out of the skill") || e.contains("too deep"),
                "{target}: {e}"
            );
            fs::remove_file(&link).unwrap();
        }
        fs::remove_file(skill.join("SKILL.md")).unwrap();
        assert!(pack_of(&skill).is_err());
    }
}
