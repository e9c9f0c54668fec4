//! Images that the closure only describes: they are fetched and built when a launch first needs one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{Closure, Image};
use crate::error::{Context, Error, Kind, Result};
use crate::say::say;

/// How to get an image, and what is known of it beforehand.
#[derive(Debug, Clone, Deserialize)]
pub struct Later {
    /// The derivation, in the store.
    pub drv: PathBuf,
    /// What it builds: a directory with `image.json`, an [`Image`].
    pub result: PathBuf,
    /// Where the file system will be.
    pub erofs: PathBuf,
    /// Groups of locked sources that the build needs.
    pub sources: Vec<String>,
    /// About how much that is at most to download, MB.
    pub download_mb: u32,
    /// The agent's user.
    pub user: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Its home directory.
    pub home: PathBuf,
    /// Where it works.
    pub workdir: PathBuf,
    /// PATH in the guest.
    pub path: String,
}

/// `nix/realise`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Realise {
    program: PathBuf,
}

impl Later {
    /// Whether it is built already.
    #[must_use]
    pub fn is_built(&self) -> bool {
        self.result.join("image.json").exists()
    }
}

impl Closure {
    /// Makes sure that the image `name` is in the store, building it when it is not, and keeps it from the garbage collector by a link in
    /// the directory `roots`. What the builder says goes to standard error unless `quiet`.
    ///
    /// # Errors
    /// `Engine` when it cannot be built.
    pub fn realise(&mut self, name: &str, roots: &Path, quiet: bool) -> Result<()> {
        if self.images.contains_key(name) {
            return Ok(());
        }
        let Some(later) = self.later.get(name) else { return self.image(name).map(drop) };
        let root = roots.join(name);
        let rooted = std::fs::read_link(&root).is_ok_and(|to| to == later.result);
        if !rooted || !later.is_built() {
            if !quiet && !later.is_built() {
                say(format_args!(
                    "bottle: the image {name} is built once, which takes some minutes and a download of up to {} MB",
                    later.download_mb
                ));
            }
            let built = self.realise.as_ref().map(|realise| build(&realise.program, later, &root, quiet));
            match built {
                Some(Err(e)) if !later.is_built() => return Err(e),
                None if !later.is_built() => {
                    return Err(
                        Error::new(Kind::Engine, format!("the image {name} is not in this closure")).hint("nix/bootstrap build .#bottle")
                    );
                }
                // Without a link it can be collected one day, and is built again then.
                _ => {}
            }
        }
        let file = later.result.join("image.json");
        let what = || format!("cannot read {}", file.display());
        let image: Image = serde_json::from_slice(&std::fs::read(&file).context(Kind::Engine, what)?).context(Kind::Engine, what)?;
        self.images.insert(name.to_owned(), image);
        Ok(())
    }
}

fn build(program: &Path, later: &Later, root: &Path, quiet: bool) -> Result<()> {
    let hint = format!("{} {} {} {}", program.display(), later.drv.display(), root.display(), later.sources.join(" "));
    let said = if quiet { Stdio::null() } else { Stdio::inherit() };
    let status = Command::new(program)
        .arg(&later.drv)
        .arg(root)
        .args(&later.sources)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said)
        .status()
        .context(Kind::Engine, || format!("cannot run {}", program.display()))?;
    if status.success() { Ok(()) } else { Err(Error::new(Kind::Engine, format!("the image cannot be built ({status})")).hint(hint)) }
}
