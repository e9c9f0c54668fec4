//! Images that the closure only describes: they are fetched and built when a launch first needs
//! one.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use serde::Deserialize;

use super::format::{Build, Closure, Image, Realise};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::process::{Program, Sink};
use crate::host::stderr::note;

/// The file beside `closure.json` that says how deferred images are built. It is separate because
/// derivations depend on where their sources come from, and nothing in `closure.json` does.
const BUILDERS_FILE: &str = "later.json";

/// The format of [`BUILDERS_FILE`].
#[derive(Debug, Deserialize)]
struct Builders {
    realise: Realise,
    /// Derivations by image and engine.
    drv: BTreeMap<String, BTreeMap<String, Utf8PathBuf>>,
}

impl Build {
    /// Whether it is built already.
    #[must_use]
    pub fn is_built(&self) -> bool {
        self.result.join("image.json").exists()
    }
}

impl Closure {
    /// Adds the builders named in the file beside the closure `path`, if there is one.
    pub(super) fn read_builders(&mut self, path: &Utf8Path) -> Result<()> {
        let path = path.with_file_name(BUILDERS_FILE);
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read.context(ErrorKind::Engine, || format!("cannot read {path}"))?,
        };
        let builders: Builders = serde_json::from_slice(&text)
            .context(ErrorKind::Engine, || format!("{path} does not say how images are built"))?;
        for (image, engines) in builders.drv {
            let Some(deferred) = self.deferred.get_mut(&image) else { continue };
            for (engine, drv) in engines {
                if let Some(build) = deferred.builds.get_mut(&engine) {
                    build.drv = Some(drv);
                }
            }
        }
        self.realise = Some(builders.realise);
        Ok(())
    }

    /// Makes sure that the image `name` for `engine` is in the store, building it when it is not,
    /// and keeps it from the garbage collector by a link in the directory `roots`. The builder's
    /// messages go to standard error unless `quiet`.
    ///
    /// # Errors
    /// `Engine` when it cannot be built.
    pub fn realise(
        &mut self,
        name: &str,
        engine: &str,
        roots: &Utf8Path,
        quiet: bool,
    ) -> Result<()> {
        if self.images.contains_key(name) {
            return Ok(());
        }
        let Some(deferred) = self.deferred.get(name) else { return self.image(name).map(drop) };
        let Some(build) = deferred.builds.get(engine) else {
            return Err(Error::new(
                ErrorKind::Engine,
                format!("there is no image {name} for {engine}"),
            )
            .hint("--engine qemu"));
        };
        let root = roots.join(format!("{name}-{engine}"));
        let rooted = fs::read_link(&root).is_ok_and(|to| to == build.result);
        if !rooted || !build.is_built() {
            if !quiet && !build.is_built() {
                let megabytes = deferred
                    .download_mb
                    .map_or_else(String::new, |most| format!(" of up to {most} MB"));
                note(format_args!(
                    "bottle: the image {name} is built once, which takes some minutes and a download{megabytes}"
                ));
            }
            let built =
                self.realise.as_ref().zip(build.drv.as_ref()).map(|(realise, drv)| {
                    run(&realise.program, drv, &deferred.sources, &root, quiet)
                });
            match built {
                Some(Err(e)) if !build.is_built() => return Err(e),
                None if !build.is_built() => {
                    return Err(Error::new(
                        ErrorKind::Engine,
                        format!("the image {name} is not in this closure"),
                    )
                    .hint("nix/bootstrap build .#bottle"));
                }
                // Without a link the image may be garbage-collected one day; then it is built again.
                _ => {}
            }
        }
        let file = build.result.join("image.json");
        let image: Image = serde_json::from_slice(&fs::read(&file)?)
            .context(ErrorKind::Engine, || format!("cannot read {file}"))?;
        self.images.insert(name.to_owned(), image);
        Ok(())
    }
}

fn run(
    program: &Utf8Path,
    drv: &Utf8Path,
    sources: &[String],
    root: &Utf8Path,
    quiet: bool,
) -> Result<()> {
    let hint = format!("{program} {drv} {root} {}", sources.join(" "));
    // In the foreground, so that Ctrl-C ends the builders too.
    let status = Program::new("realise", program)
        .arg(drv)
        .arg(root)
        .args(sources)
        .inherit_env()
        .in_foreground()
        .stdout(Sink::Null)
        .stderr(if quiet { Sink::Null } else { Sink::Inherit })
        .status()
        .context(ErrorKind::Engine, || format!("cannot run {program}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Engine, format!("the image cannot be built ({status})"))
            .hint(hint))
    }
}
