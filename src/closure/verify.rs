//! Hashing the closure's files, once a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::StoreFile;
use crate::error::{Context, Error, Kind, Result};
use crate::state::write_private;

/// What a file looked like when its content was found right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    sha256: String,
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

pub(super) fn files<'a>(
    files: impl IntoIterator<Item = &'a StoreFile>,
    cache: &Path,
) -> Result<()> {
    let mut seen: BTreeMap<PathBuf, Seen> = std::fs::read(cache)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let mut news = false;
    for file in files {
        let now = look(file)?;
        if seen.get(&file.path) == Some(&now) {
            continue;
        }
        let found = hash(&file.path)?;
        if found != file.sha256 {
            return Err(altered(file));
        }
        seen.insert(file.path.clone(), now);
        news = true;
    }
    if news {
        seen.retain(|path, _| path.exists());
        let json = serde_json::to_vec(&seen)
            .context(Kind::Internal, || "cannot write what was verified".into())?;
        write_private(cache, &json)?;
    }
    Ok(())
}

fn look(file: &StoreFile) -> Result<Seen> {
    let meta = std::fs::metadata(&file.path).map_err(|e| {
        Error::new(Kind::Engine, format!("{} is missing from the store: {e}", file.path.display()))
            .hint("nix/bootstrap build .#bottle   # realises it again")
    })?;
    if meta.len() != file.bytes {
        return Err(altered(file));
    }
    Ok(Seen {
        sha256: file.sha256.clone(),
        device: meta.dev(),
        inode: meta.ino(),
        bytes: meta.len(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

fn altered(file: &StoreFile) -> Error {
    Error::new(
        Kind::Engine,
        format!("{} was altered: it is not what the closure was built with", file.path.display()),
    )
    .hint("nix-store --verify --check-contents --repair")
}

fn hash(path: &Path) -> Result<String> {
    let what = || format!("cannot read {}", path.display());
    let mut file = File::open(path).context(Kind::Engine, what)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer).context(Kind::Engine, what)?;
        if n == 0 {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(&buffer[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_file(path: &Path, content: &[u8]) -> StoreFile {
        std::fs::write(path, content).expect("file");
        StoreFile {
            path: path.to_owned(),
            sha256: hex::encode(Sha256::digest(content)),
            bytes: content.len() as u64,
        }
    }

    #[test]
    fn an_altered_file_of_the_same_size_is_refused_even_after_it_was_verified_once() {
        let dir = tempfile::tempdir().expect("dir");
        let cache = dir.path().join("verified.json");
        let file = store_file(&dir.path().join("kernel"), b"good");
        files([&file], &cache).expect("verified");
        std::thread::sleep(std::time::Duration::from_millis(20)); // past the clock's granularity
        std::fs::write(&file.path, b"evil").expect("altered");
        let error = files([&file], &cache).expect_err("refused");
        assert!(error.to_string().contains("was altered") && error.kind() == Kind::Engine);
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().expect("dir");
        let file = store_file(&dir.path().join("kernel"), b"good");
        std::fs::remove_file(&file.path).expect("removed");
        assert!(
            files([&file], &dir.path().join("v"))
                .expect_err("refused")
                .to_string()
                .contains("missing")
        );
    }
}
