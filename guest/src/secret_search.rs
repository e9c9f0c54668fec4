//! Searches everything that this user can read for a value of which only the SHA-256 is known.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

const ROOTS: [&str; 6] = ["/etc", "/home", "/root", "/run", "/tmp", "/var"];
/// Largest file that is searched, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Limits of the whole search, so that it ends in time. The result says when one was reached.
const MAX_TOTAL_BYTES: u64 = 32 * 1024 * 1024;
const MAX_FILES: usize = 20_000;
/// Lengths of a token in bytes.
const TOKEN_LENGTHS: std::ops::RangeInclusive<usize> = 8..=128;
/// Maximum number of places in a word where a token may begin or end.
const MAX_BOUNDARIES: usize = 12;

/// Searches this process's environment, every readable process's environment and arguments, and the
/// readable files below [`ROOTS`].
///
/// # Errors
/// The place where the value was found, or that `sha256_hex` is not a hash.
pub fn absent(sha256_hex: &str) -> Result<String, String> {
    let mut wanted = [0; 32];
    hex::decode_to_slice(sha256_hex.trim(), &mut wanted)
        .map_err(|_| "the upstream named no SHA-256".to_owned())?;
    let mut search = Search { wanted, words: 0, files: 0, bytes: 0 };
    for (name, value) in std::env::vars_os() {
        search.search(value.as_encoded_bytes(), || {
            format!("the environment variable {}", name.to_string_lossy())
        })?;
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            for file in ["environ", "cmdline"] {
                search.file(&entry.path().join(file))?;
            }
        }
    }
    for root in ROOTS {
        search.tree(Path::new(root))?;
    }
    let more = if search.bytes >= MAX_TOTAL_BYTES || search.files >= MAX_FILES {
        ", the first of more"
    } else {
        ""
    };
    Ok(format!("searched {} words in {} files{more}", search.words, search.files))
}

struct Search {
    wanted: [u8; 32],
    words: u64,
    files: usize,
    bytes: u64,
}

impl Search {
    fn tree(&mut self, root: &Path) -> Result<(), String> {
        let mut dirs: VecDeque<PathBuf> = [root.to_owned()].into();
        while let Some(dir) = dirs.pop_front() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() {
                    dirs.push_back(entry.path());
                } else if kind.is_file()
                    && entry.metadata().is_ok_and(|meta| meta.size() <= MAX_FILE_BYTES)
                {
                    self.file(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), String> {
        if self.bytes >= MAX_TOTAL_BYTES || self.files >= MAX_FILES {
            return Ok(());
        }
        let mut content = Vec::new();
        if fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut content))
            .is_ok()
        {
            self.files += 1;
            self.bytes += content.len() as u64;
            self.search(&content, || path.display().to_string())?;
        }
        Ok(())
    }

    /// Hashes every part of every word that begins and ends at a boundary.
    fn search(&mut self, text: &[u8], place: impl Fn() -> String) -> Result<(), String> {
        for word in text.split(|b| !(b.is_ascii_alphanumeric() || b"-_.~+/=:@%".contains(b))) {
            if word.len() < *TOKEN_LENGTHS.start() {
                continue;
            }
            let cuts: Vec<usize> = (0..word.len())
                .filter(|&i| b".~+/=:@%".contains(&word[i]))
                .take(MAX_BOUNDARIES)
                .collect();
            let starts = std::iter::once(0).chain(cuts.iter().map(|cut| cut + 1));
            for start in starts {
                for end in cuts.iter().copied().chain([word.len()]) {
                    if end > start && TOKEN_LENGTHS.contains(&(end - start)) {
                        self.words += 1;
                        if Sha256::digest(&word[start..end])[..] == self.wanted {
                            return Err(format!("found in {}", place()));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn finds(token: &str, text: &str) -> bool {
        let mut search =
            Search { wanted: Sha256::digest(token).into(), words: 0, files: 0, bytes: 0 };
        search.search(text.as_bytes(), || "here".into()).is_err()
    }

    #[test]
    fn a_token_is_found_however_it_is_written() {
        for token in [
            "ghp_0123456789abcdef",
            "sk-ant-api03-AbC_d-9",
            "dGVzdCB0b2tlbg==",
            "a/b+c/d0123456789",
            "user:pass-word-1234",
        ] {
            for text in [
                token.to_owned(),
                format!("TOKEN={token}\n"),
                format!("\0A=b\0AUTH={token}\0"),
                format!("{{\"key\":\"{token}\"}}"),
                format!("Authorization: Bearer {token}\r\n"),
                format!("https://x:{token}@github.com/a/b"),
            ] {
                assert!(finds(token, &text), "{token} in {text:?}");
            }
            assert!(!finds(token, "nothing of that kind, only 0123456789abcdef"));
        }
    }
}
