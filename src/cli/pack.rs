//! `bottle pack`: converts an OCI archive to a `.smolmachine` image.

use std::path::{Path, PathBuf};

use bottle_pack::{Archive, File, Layer, PackError, Spec, host_platform, pack, verify};

use crate::closure::Closure;
use crate::error::{Context, Error, ErrorKind, Result};

/// Path of the bottle's own binary in an image.
const GUEST_PATH: &str = "usr/lib/bottle/bottle-guest";

/// Convert an OCI archive to an image for smolvm.
///
/// IMAGE is a file that `docker save`, `podman save` or `skopeo copy … oci-archive:` wrote, for this
/// host's processor. Boots no machine and fetches nothing; the same archive gives the same file
/// everywhere. Reads the new file back and checks it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The archive to convert; with --check, the .smolmachine to check.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Write to this file (default: IMAGE with the ending .smolmachine).
    #[arg(short, long, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,
    /// Only check that a .smolmachine is whole and for this host.
    #[arg(long)]
    check: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let platform = host_platform();
        if self.check {
            let manifest = verify(&self.image, platform).map_err(failed)?;
            println!(
                "{} is whole: {}, {} layers",
                self.image.display(),
                manifest.image,
                manifest.assets.layers.len()
            );
            return Ok(0);
        }
        let closure = Closure::load()?;
        let guest = closure.guest.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Engine, "this closure has no bottle-guest").hint("bottle doctor")
        })?;
        let output =
            self.output.clone().unwrap_or_else(|| self.image.with_extension("smolmachine"));
        let name = self.image.file_stem().unwrap_or_default().to_string_lossy();
        let archive = Archive::open(&self.image, platform).map_err(failed)?;
        let own = File { from: guest.path.clone().into(), to: GUEST_PATH.into(), mode: 0o755 };
        let layers: Vec<&dyn Layer> = archive.layers().chain([&own as &dyn Layer]).collect();
        let spec = Spec {
            env: archive.env.clone(),
            workdir: archive.workdir.clone(),
            ..Spec::of_bottle(&name, platform)
        };
        // The file appears whole or not at all.
        let what = || format!("cannot write {}", output.display());
        let beside =
            output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(beside).context(ErrorKind::Io, what)?;
        let packed = pack(&layers, &spec, &file).map_err(failed)?;
        verify(file.path(), platform).map_err(failed)?;
        file.persist(&output).context(ErrorKind::Io, what)?;
        println!(
            "{}  {} bytes  sha256 {}",
            output.display(),
            packed.bytes,
            hex::encode(packed.sha256)
        );
        Ok(0)
    }
}

fn failed(e: PackError) -> Error {
    let hint = match &e {
        PackError::Platform { .. } => {
            "docker pull --platform=…   # fetches the image for this host"
        }
        PackError::Source { .. } | PackError::Io { .. } => {
            "docker save -o image.tar IMAGE   # writes one image"
        }
        PackError::Write(_) => "df -h .   # is there space?",
        PackError::Truncated(_) | PackError::Damaged(_) | PackError::Version { .. } => {
            "bottle pack IMAGE.tar   # packs it again"
        }
    };
    Error::new(ErrorKind::Config, e.to_string()).hint(hint)
}
