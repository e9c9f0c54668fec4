//! Verifies the closure's files; each is hashed once.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::format::{Closure, Image, StoreFile};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::write_private;

/// The metadata of a file when its hash was last found correct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct VerifiedFile {
    sha256: String,
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Closure {
    /// Checks that every file which a launch of `image` on `engine` needs is there and unaltered.
    ///
    /// A file is hashed once; afterwards `cache` remembers its inode, size and change time, which
    /// only root can forge.
    ///
    /// # Errors
    /// `Engine` naming the first file that is missing or altered.
    pub fn verify(&self, image: &Image, engine: &str, cache: &Utf8Path) -> Result<()> {
        let (qemu, tools) = (&self.engines.qemu, &self.tools);
        let mut files = vec![
            image.of(engine)?,
            &self.bundle.binary,
            &tools.mke2fs,
            &tools.git,
            &tools.ssh,
            &tools.gitleaks,
        ];
        match (engine, &self.engines.smolvm) {
            ("smolvm", Some(smolvm)) => {
                files.push(&smolvm.binary);
                files.extend(&smolvm.files);
            }
            _ => {
                files.extend([&qemu.binary, &qemu.kernel, &qemu.initrd]);
                files.extend(&qemu.firmware_files);
            }
        }
        verify_files(files, cache)
    }
}

fn verify_files<'a>(
    files: impl IntoIterator<Item = &'a StoreFile>,
    cache: &Utf8Path,
) -> Result<()> {
    let mut seen: BTreeMap<Utf8PathBuf, VerifiedFile> = fs::read(cache)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let mut changed = false;
    for file in files {
        let now = current_metadata(file)?;
        if seen.get(&file.path) == Some(&now) {
            continue;
        }
        let found = hash(&file.path)?;
        if found != file.sha256 {
            return Err(altered(file));
        }
        seen.insert(file.path.clone(), now);
        changed = true;
    }
    if changed {
        seen.retain(|path, _| path.exists());
        let json = serde_json::to_vec(&seen)
            .context(ErrorKind::Internal, || "cannot write the cache of verified files".into())?;
        write_private(cache, &json)?;
    }
    Ok(())
}

fn current_metadata(file: &StoreFile) -> Result<VerifiedFile> {
    let meta = std::fs::metadata(&file.path).map_err(|e| {
        Error::new(ErrorKind::Engine, format!("{} is missing from the store: {e}", file.path))
            .hint("nix/bootstrap build .#bottle   # builds it again")
    })?;
    if meta.len() != file.bytes {
        return Err(altered(file));
    }
    Ok(VerifiedFile {
        sha256: file.sha256.clone(),
        device: meta.dev(),
        inode: meta.ino(),
        bytes: meta.len(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

fn altered(file: &StoreFile) -> Error {
    Error::new(
        ErrorKind::Engine,
        format!("{} was altered: it is not what the closure was built with", file.path),
    )
    .hint("nix-store --verify --check-contents --repair")
}

fn hash(path: &Utf8Path) -> Result<String> {
    let mut file = fs::File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(dir: &tempfile::TempDir, name: &str) -> Utf8PathBuf {
        crate::host::fs::utf8("dir", dir.path().join(name)).expect("UTF-8")
    }

    fn store_file(path: Utf8PathBuf, content: &[u8]) -> StoreFile {
        fs::write(&path, content).expect("file");
        StoreFile {
            path,
            sha256: hex::encode(Sha256::digest(content)),
            bytes: content.len() as u64,
        }
    }

    #[test]
    fn an_altered_file_of_the_same_size_is_refused_even_after_it_was_verified_once() {
        let dir = tempfile::tempdir().expect("dir");
        let cache = at(&dir, "verified.json");
        let file = store_file(at(&dir, "kernel"), b"good");
        verify_files([&file], &cache).expect("verified");
        std::thread::sleep(std::time::Duration::from_millis(20)); // past the clock's granularity
        fs::write(&file.path, b"evil").expect("altered");
        let error = verify_files([&file], &cache).expect_err("refused");
        assert!(error.to_string().contains("was altered") && error.kind() == ErrorKind::Engine);
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().expect("dir");
        let file = store_file(at(&dir, "kernel"), b"good");
        fs::remove_file(&file.path).expect("removed");
        assert!(
            verify_files([&file], &at(&dir, "v"))
                .expect_err("refused")
                .to_string()
                .contains("missing")
        );
    }
}
