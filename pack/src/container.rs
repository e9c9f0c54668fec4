//! The `.smolmachine` file: compressed assets, manifest and footer.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{PackError, at};
use crate::layer::{Layer, Meter};

const MAGIC: &[u8; 8] = b"SMOLPACK";
const VERSION: u32 = 1;
const FOOTER_BYTES: usize = 64;
/// Compression level of zstd. It runs on one thread, because more threads would change the bytes.
const ZSTD_LEVEL: i32 = 7;
/// The smolvm whose format this is. smolvm honours owners and whiteouts from 1.8.1 on.
const SMOLVM_VERSION: &str = "1.32.2";
/// Maximum size of a manifest in bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Defaults of a machine that is created from the file.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name of the image, as listings show it.
    pub name: String,
    /// Platform, such as `linux/amd64`.
    pub platform: String,
    /// Command that runs when the machine starts.
    pub command: Vec<String>,
    /// Environment, each `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: Option<String>,
}

/// The guest's own binary in every image. `idle` keeps its container running.
const GUEST: &str = "/usr/lib/bottle/bottle-guest";

impl Spec {
    /// The spec of a bottle's image. Its command does nothing; the engine starts the channel later.
    #[must_use]
    pub fn of_bottle(name: &str, platform: &str) -> Self {
        let command = vec![GUEST.to_owned(), "idle".to_owned()];
        Self {
            name: format!("bottle/{name}"),
            platform: platform.to_owned(),
            command,
            env: Vec::new(),
            workdir: None,
        }
    }
}

/// Size and hash of a written file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackReport {
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
}

/// smolvm's manifest: the fields that we use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `container`, which means layers.
    pub mode: String,
    /// Name of the image.
    pub image: String,
    /// Digest of the last layer, `sha256:…`.
    pub digest: String,
    /// Guest platform.
    pub platform: String,
    /// Command that runs when the machine starts.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Environment, each `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Default number of virtual CPUs.
    pub cpus: u8,
    /// Default memory in MiB.
    pub mem: u32,
    /// Total size of the layers in bytes.
    #[serde(default)]
    pub image_size: u64,
    /// Whether the machine has a network. Always false.
    #[serde(default)]
    pub network: bool,
    /// A fixed time, so that the same input gives the same file.
    #[serde(default)]
    pub created: String,
    /// The smolvm version whose format this is.
    #[serde(default)]
    pub smolvm_version: String,
    /// Inventory of the assets.
    pub assets: Assets,
}

/// Inventory of the assets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assets {
    libraries: Vec<Asset>,
    agent_rootfs: Asset,
    /// Layers, from the lowest to the highest.
    pub layers: Vec<LayerEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asset {
    path: String,
    size: u64,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerEntry {
    /// Digest of the uncompressed tar, `sha256:…`.
    pub digest: String,
    /// Path in the assets.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
}

/// Writes `layers` (from the lowest to the highest) to `to`. Each layer is read twice, so that only
/// zstd's window is buffered.
///
/// # Errors
/// When a layer cannot be read, changed between its two readings, or `to` cannot be written.
pub fn pack(layers: &[&dyn Layer], spec: &Spec, to: impl Write) -> Result<PackReport, PackError> {
    let mut whole = Meter::new(io::BufWriter::with_capacity(1 << 17, to));
    let mut assets = Checksum { to: &mut whole, crc: crc32fast::Hasher::new(), bytes: 0 };
    let mut zstd = zstd::Encoder::new(&mut assets, ZSTD_LEVEL)?;
    zstd.write_all(header("layers/", tar::EntryType::Directory, 0o755, 0)?.as_bytes())?;
    let mut entries: Vec<LayerEntry> = Vec::new();
    for layer in layers {
        let (digest, size) = layer.measure()?;
        let digest = hex::encode(digest);
        // smolvm identifies a layer by its digest, so a repeated layer is written once.
        if !entries.iter().any(|e| e.digest.ends_with(&digest)) {
            let path = format!("layers/{digest}.tar");
            zstd.write_all(header(&path, tar::EntryType::Regular, 0o644, size)?.as_bytes())?;
            let mut meter = Meter::new(&mut zstd);
            layer.write(&mut meter)?;
            let (again, written) = meter.finish();
            if hex::encode(again) != digest || written != size {
                return Err(PackError::Damaged("a source changed while it was packed".into()));
            }
            let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or_default();
            zstd.write_all(&[0; 512][..padding])?;
            entries.push(LayerEntry { digest: format!("sha256:{digest}"), path, size });
        }
    }
    zstd.write_all(&[0; 1024])?;
    zstd.finish()?;
    let assets_size = assets.bytes;
    let manifest = serde_json::to_vec(&manifest(spec, entries)).map_err(io::Error::from)?;
    assets.write_all(&manifest)?;
    let footer =
        Footer { assets: assets_size, manifest: manifest.len() as u64, crc: assets.crc.finalize() };
    whole.write_all(&footer.bytes())?;
    whole.flush()?;
    let (sha256, bytes) = whole.finish();
    Ok(PackReport { bytes, sha256 })
}

fn manifest(spec: &Spec, layers: Vec<LayerEntry>) -> Manifest {
    Manifest {
        mode: "container".into(),
        image: spec.name.clone(),
        digest: layers.last().map(|l| l.digest.clone()).unwrap_or_default(),
        platform: spec.platform.clone(),
        cmd: spec.command.clone(),
        env: spec.env.clone(),
        workdir: spec.workdir.clone(),
        cpus: 1,
        mem: 512,
        image_size: layers.iter().map(|l| l.size).sum(),
        network: false,
        created: "1970-01-01T00:00:01Z".into(),
        smolvm_version: SMOLVM_VERSION.into(),
        assets: Assets {
            libraries: Vec::new(),
            agent_rootfs: Asset { path: "agent-rootfs.tar".into(), size: 0 },
            layers,
        },
    }
}

/// Reads the manifest of the file at `path`, and checks its size, its format version and that it is
/// for `platform` (such as `linux/amd64`). It does not read the layers; [`verify`] does.
///
/// # Errors
/// The first check that fails.
pub fn inspect(path: &Path, platform: &str) -> Result<Manifest, PackError> {
    open(path, platform).map(|(.., manifest)| manifest)
}

fn open(path: &Path, platform: &str) -> Result<(File, Footer, Manifest), PackError> {
    let mut file = File::open(path).map_err(at(path))?;
    let size = file.metadata().map_err(at(path))?.len();
    let footer = Footer::read(&mut file, size)?;
    file.seek(SeekFrom::Start(footer.assets)).map_err(at(path))?;
    let mut json = Vec::new();
    Read::by_ref(&mut file).take(footer.manifest).read_to_end(&mut json).map_err(at(path))?;
    file.rewind().map_err(at(path))?;
    let manifest: Manifest = serde_json::from_slice(&json)
        .map_err(|e| PackError::Damaged(format!("its manifest: {e}")))?;
    if manifest.platform != platform {
        return Err(PackError::Platform { found: manifest.platform, wanted: platform.to_owned() });
    }
    Ok((file, footer, manifest))
}

/// Reads the whole file at `path` and checks every byte: in addition to [`inspect`], the checksum
/// and each layer's digest.
///
/// # Errors
/// The first check that fails.
pub fn verify(path: &Path, platform: &str) -> Result<Manifest, PackError> {
    let (mut file, footer, manifest) = open(path, platform)?;
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 17];
    let mut left = footer.assets + footer.manifest;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let n = file.read(&mut buffer[..most]).map_err(at(path))?;
        if n == 0 {
            return Err(PackError::Truncated("it ends early".into()));
        }
        crc.update(&buffer[..n]);
        left -= n as u64;
    }
    if crc.finalize() != footer.crc {
        return Err(PackError::Damaged("its checksum does not match".into()));
    }
    file.rewind().map_err(at(path))?;
    check_layers(file.take(footer.assets), &manifest)?;
    Ok(manifest)
}

/// The platform of this host's guests.
#[must_use]
pub fn host_platform() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }
}

/// Checks the digest of each layer that the manifest names.
fn check_layers(assets: impl Read, manifest: &Manifest) -> Result<(), PackError> {
    let damaged = |e: io::Error| PackError::Damaged(format!("its assets: {e}"));
    let mut tar = tar::Archive::new(
        zstd::Decoder::with_buffer(BufReader::with_capacity(1 << 17, assets)).map_err(damaged)?,
    );
    let mut found = Vec::new();
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.to_string_lossy().into_owned();
        let mut meter = Meter::new(io::sink());
        io::copy(&mut entry, &mut meter).map_err(damaged)?;
        let (digest, size) = meter.finish();
        found.push((name, format!("sha256:{}", hex::encode(digest)), size));
    }
    for LayerEntry { digest, path, size } in &manifest.assets.layers {
        if !found.iter().any(|(name, is, bytes)| name == path && is == digest && bytes == size) {
            return Err(PackError::Damaged(format!("its layer {digest} is missing or altered")));
        }
    }
    Ok(())
}

fn header(
    name: &str,
    kind: tar::EntryType,
    mode: u32,
    size: u64,
) -> Result<tar::Header, PackError> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// Positions and checksum. Our files have no stub before the assets.
struct Footer {
    assets: u64,
    manifest: u64,
    crc: u32,
}

impl Footer {
    fn bytes(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        // stub_size 12, assets_offset 20: none.
        for (at, value) in [(28, self.assets), (36, self.assets), (44, self.manifest)] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes[52..56].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    fn read(file: &mut File, size: u64) -> Result<Self, PackError> {
        let truncated = |why: &str| PackError::Truncated(why.to_owned());
        let start =
            size.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| truncated("it is too short"))?;
        let mut bytes = [0; FOOTER_BYTES];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        if &bytes[..8] != MAGIC {
            return Err(truncated("it has no footer"));
        }
        let number =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0_u64, |n, b| (n << 8) | u64::from(*b));
        let short =
            |at: usize| bytes[at..at + 4].iter().rev().fold(0_u32, |n, b| (n << 8) | u32::from(*b));
        if short(8) != VERSION {
            return Err(PackError::Version { found: short(8), known: VERSION });
        }
        let footer = Self { assets: number(28), manifest: number(44), crc: short(52) };
        let whole = footer.assets.checked_add(footer.manifest) == Some(start);
        if !whole
            || number(20) != 0
            || number(36) != footer.assets
            || footer.manifest > MAX_MANIFEST_BYTES
        {
            return Err(truncated("its footer does not fit its size"));
        }
        Ok(footer)
    }
}

/// A writer that counts what goes through it and computes smolvm's checksum.
struct Checksum<W> {
    to: W,
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Checksum<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.crc.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// SHA-256 of `bytes`, lower hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
