//! Reads an image from a `docker save` archive or an OCI layout, as layers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::container::sha256;
use crate::error::{PackError, at};
use crate::layer::Layer;

/// Maximum size of a JSON document in bytes.
const MAX_JSON_BYTES: u64 = 4 << 20;

/// An image in an archive.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    files: BTreeMap<String, (u64, u64)>,
    layers: Vec<Blob>,
    /// Environment of the image's configuration, each `NAME=value`.
    pub env: Vec<String>,
    /// Working directory of the image's configuration.
    pub workdir: Option<String>,
}

/// A tar or tar.gz inside the archive.
#[derive(Debug, Clone)]
struct Blob {
    archive: PathBuf,
    at: u64,
    size: u64,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct ImageManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    architecture: String,
    os: String,
    #[serde(default)]
    config: RunConfig,
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Archive {
    /// Opens the archive at `path` and selects its image for `platform`. Compares every layer with
    /// the digest in the image's configuration.
    ///
    /// # Errors
    /// When there is no such file or no such image, or a layer is missing or altered.
    pub fn open(path: &Path, platform: &str) -> Result<Self, PackError> {
        let mut archive = Self {
            path: path.to_owned(),
            files: index(path)?,
            layers: Vec::new(),
            env: Vec::new(),
            workdir: None,
        };
        let (config, blobs) = match archive.files.contains_key("index.json") {
            true => archive.oci(platform)?,
            false => archive.docker()?,
        };
        let found = format!("{}/{}", config.os, config.architecture);
        if found != platform {
            return Err(PackError::Platform { found, wanted: platform.to_owned() });
        }
        if config.rootfs.diff_ids.len() != blobs.len() {
            return Err(archive.wrong("its configuration has another number of layers"));
        }
        for (blob, diff) in blobs.iter().zip(&config.rootfs.diff_ids) {
            if format!("sha256:{}", hex::encode(blob.measure()?.0)) != *diff {
                return Err(archive.wrong(&format!("its layer {diff} is altered")));
            }
        }
        archive.layers = blobs;
        archive.env = config.config.env.unwrap_or_default();
        archive.workdir = config.config.working_dir.filter(|d| !d.is_empty());
        Ok(archive)
    }

    /// The image's layers, from the lowest to the highest.
    pub fn layers(&self) -> impl Iterator<Item = &dyn Layer> {
        self.layers.iter().map(|blob| blob as &dyn Layer)
    }

    fn oci(&self, platform: &str) -> Result<(Config, Vec<Blob>), PackError> {
        let mut index: Index = self.json("index.json")?;
        // The archive's index may contain another index, of several platforms.
        for _ in 0..2 {
            let fits = |d: &&Descriptor| {
                d.platform
                    .as_ref()
                    .is_none_or(|p| format!("{}/{}", p.os, p.architecture) == platform)
            };
            let Some(image) = index.manifests.iter().find(fits) else { break };
            let name = self.blob_name(&image.digest)?;
            self.matches(&name, &image.digest)?;
            if let Ok(manifest) = self.json::<ImageManifest>(&name) {
                let config = self.blob_name(&manifest.config.digest)?;
                self.matches(&config, &manifest.config.digest)?;
                let layers = manifest
                    .layers
                    .iter()
                    .map(|l| self.blob(&self.blob_name(&l.digest)?))
                    .collect::<Result<_, _>>()?;
                return Ok((self.json(&config)?, layers));
            }
            index = self.json(&name)?;
        }
        Err(self.wrong(&format!("it has no image for {platform}")))
    }

    fn docker(&self) -> Result<(Config, Vec<Blob>), PackError> {
        let images: Vec<DockerManifest> = self.json("manifest.json")?;
        let [image] = &images[..] else {
            return Err(self.wrong(&format!("it has {} images, and one is wanted", images.len())));
        };
        let layers = image.layers.iter().map(|l| self.blob(l)).collect::<Result<_, _>>()?;
        Ok((self.json(&image.config)?, layers))
    }

    fn blob_name(&self, digest: &str) -> Result<String, PackError> {
        let hex = digest
            .strip_prefix("sha256:")
            .filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()));
        hex.map(|h| format!("blobs/sha256/{h}"))
            .ok_or_else(|| self.wrong(&format!("{digest:?} is no digest")))
    }

    fn blob(&self, name: &str) -> Result<Blob, PackError> {
        let (at, size) = *self
            .files
            .get(name)
            .ok_or_else(|| self.wrong(&format!("{name:?} is missing in it")))?;
        Ok(Blob { archive: self.path.clone(), at, size })
    }

    fn text(&self, name: &str) -> Result<Vec<u8>, PackError> {
        let blob = self.blob(name)?;
        if blob.size > MAX_JSON_BYTES {
            return Err(self.wrong(&format!("{name:?} is too large")));
        }
        let mut text = Vec::new();
        blob.open()?.read_to_end(&mut text).map_err(at(&self.path))?;
        Ok(text)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, PackError> {
        serde_json::from_slice(&self.text(name)?).map_err(|e| self.wrong(&format!("{name:?}: {e}")))
    }

    fn matches(&self, name: &str, digest: &str) -> Result<(), PackError> {
        if format!("sha256:{}", sha256(&self.text(name)?)) == digest {
            Ok(())
        } else {
            Err(self.wrong(&format!("{digest} is altered")))
        }
    }

    fn wrong(&self, why: &str) -> PackError {
        PackError::Source { path: self.path.clone(), why: why.to_owned() }
    }
}

/// Position and size of each file in the archive, in bytes.
fn index(path: &Path) -> Result<BTreeMap<String, (u64, u64)>, PackError> {
    let mut files = BTreeMap::new();
    let mut tar = tar::Archive::new(File::open(path).map_err(at(path))?);
    for entry in tar.entries_with_seek().map_err(at(path))? {
        let entry = entry.map_err(at(path))?;
        if entry.header().entry_type().is_file() {
            let name = entry
                .path()
                .map_err(at(path))?
                .to_string_lossy()
                .trim_start_matches("./")
                .to_owned();
            files.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(files)
}

impl Blob {
    fn open(&self) -> Result<impl Read + use<>, PackError> {
        let mut file = File::open(&self.archive).map_err(at(&self.archive))?;
        file.seek(SeekFrom::Start(self.at)).map_err(at(&self.archive))?;
        Ok(file.take(self.size))
    }
}

impl Layer for Blob {
    fn write(&self, to: &mut dyn Write) -> Result<(), PackError> {
        let mut magic = Vec::new();
        self.open()?.take(2).read_to_end(&mut magic).map_err(at(&self.archive))?;
        let from = std::io::BufReader::with_capacity(1 << 16, self.open()?);
        if magic == [0x1f, 0x8b] {
            std::io::copy(&mut flate2::bufread::MultiGzDecoder::new(from), to)
                .map_err(at(&self.archive))?;
        } else {
            std::io::copy(&mut { from }, to).map_err(at(&self.archive))?;
        }
        Ok(())
    }
}
