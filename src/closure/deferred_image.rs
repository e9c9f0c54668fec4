//! Images that the closure only describes: they are fetched and built when a launch first needs
//! one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{Closure, Image};
use crate::error::{Context, Error, Kind, Result};
use crate::host::stderr::say;

/// How an engine's image is built.
#[derive(Debug, Clone, Deserialize)]
pub struct Build {
    /// The derivation, in the store; `later.json` names it.
    #[serde(skip)]
    pub drv: Option<PathBuf>,
    /// What it builds: a directory with `image.json`, an [`Image`].
    pub result: PathBuf,
    /// Where the file that the engine boots will be.
    pub file: PathBuf,
}

/// How to get an image, and what is known of it beforehand.
#[derive(Debug, Clone, Deserialize)]
pub struct Later {
    /// How it is built, by engine.
    pub builds: BTreeMap<String, Build>,
    /// Groups of locked sources that the build needs; a path is the lock of a team's own.
    pub sources: Vec<String>,
    /// About how much that is at most to download, MB, where it is known.
    pub download_mb: Option<u32>,
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

/// The format of `later.json`, which is beside `closure.json` where images can be built: how they are
/// built. It is a file of its own because derivations depend on where their sources come from, and
/// nothing in `closure.json` does.
#[derive(Debug, Deserialize)]
pub(super) struct Builders {
    realise: Realise,
    /// Derivations by image and engine.
    drv: BTreeMap<String, BTreeMap<String, PathBuf>>,
}

impl Build {
    /// Whether it is built already.
    #[must_use]
    pub fn is_built(&self) -> bool {
        self.result.join("image.json").exists()
    }
}

impl Closure {
    /// Adds what the `later.json` beside the closure `path` says, if there is one.
    pub(super) fn read_builders(&mut self, path: &Path) -> Result<()> {
        let path = path.with_file_name("later.json");
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read.context(Kind::Engine, || format!("cannot read {}", path.display()))?,
        };
        let builders: Builders = serde_json::from_slice(&text).context(Kind::Engine, || {
            format!("{} does not tell how images are built", path.display())
        })?;
        for (image, engines) in builders.drv {
            for (engine, drv) in engines {
                if let Some(build) =
                    self.later.get_mut(&image).and_then(|later| later.builds.get_mut(&engine))
                {
                    build.drv = Some(drv);
                }
            }
        }
        self.realise = Some(builders.realise);
        Ok(())
    }

    /// Makes sure that the image `name` for `engine` is in the store, building it when it is not,
    /// and keeps it from the garbage collector by a link in the directory `roots`. What the builder
    /// says goes to standard error unless `quiet`.
    ///
    /// # Errors
    /// `Engine` when it cannot be built.
    pub fn realise(&mut self, name: &str, engine: &str, roots: &Path, quiet: bool) -> Result<()> {
        if self.images.contains_key(name) {
            return Ok(());
        }
        let Some(later) = self.later.get(name) else { return self.image(name).map(drop) };
        let Some(build) = later.builds.get(engine) else {
            return Err(Error::new(Kind::Engine, format!("there is no image {name} for {engine}"))
                .hint("--engine qemu"));
        };
        let root = roots.join(format!("{name}-{engine}"));
        let rooted = std::fs::read_link(&root).is_ok_and(|to| to == build.result);
        if !rooted || !build.is_built() {
            if !quiet && !build.is_built() {
                let megabytes = later
                    .download_mb
                    .map_or_else(String::new, |most| format!(" of up to {most} MB"));
                say(format_args!(
                    "bottle: the image {name} is built once, which takes some minutes and a download{megabytes}"
                ));
            }
            let built = match (&self.realise, &build.drv) {
                (Some(realise), Some(drv)) => {
                    Some(run(&realise.program, drv, &later.sources, &root, quiet))
                }
                _ => None,
            };
            match built {
                Some(Err(e)) if !build.is_built() => return Err(e),
                None if !build.is_built() => {
                    return Err(Error::new(
                        Kind::Engine,
                        format!("the image {name} is not in this closure"),
                    )
                    .hint("nix/bootstrap build .#bottle"));
                }
                // Without a link it can be collected one day, and is built again then.
                _ => {}
            }
        }
        let file = build.result.join("image.json");
        let what = || format!("cannot read {}", file.display());
        let image: Image =
            serde_json::from_slice(&std::fs::read(&file).context(Kind::Engine, what)?)
                .context(Kind::Engine, what)?;
        self.images.insert(name.to_owned(), image);
        Ok(())
    }
}

fn run(program: &Path, drv: &Path, sources: &[String], root: &Path, quiet: bool) -> Result<()> {
    let hint =
        format!("{} {} {} {}", program.display(), drv.display(), root.display(), sources.join(" "));
    let said = if quiet { Stdio::null() } else { Stdio::inherit() };
    let status = Command::new(program)
        .arg(drv)
        .arg(root)
        .args(sources)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said)
        .status()
        .context(Kind::Engine, || format!("cannot run {}", program.display()))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(Kind::Engine, format!("the image cannot be built ({status})")).hint(hint))
    }
}
