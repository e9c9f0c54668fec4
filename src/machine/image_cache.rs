//! Images that an engine has unpacked: made once, then read by every machine and written by none.

use std::fs::File;
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;

use crate::error::{Context, ErrorKind, Result};
use crate::host::fs::{private_dir, remove_tree};
use crate::host::lock::{Flock, Mode, lock_within, try_lock};
use crate::state::{Journal, Step};

/// Longest time that another launch may take to unpack an image.
const UNPACK_DEADLINE: Duration = Duration::from_secs(300);
/// Images that no launch has used for this long are removed when another one is unpacked.
const MAX_IDLE: Duration = Duration::from_secs(14 * 24 * 3600);

/// An unpacked image. It is not removed while this is held.
#[derive(Debug)]
pub(super) struct CachedImage {
    dir: Utf8PathBuf,
    _in_use: Flock<File>,
}

impl CachedImage {
    /// The image `key` in the directory `cache`; `make` fills an empty directory when there is none
    /// yet. An image is always whole: it gets its name when `make` is done and everything is on the
    /// disk.
    ///
    /// # Errors
    /// As `make`; `Io` when the directory cannot be used.
    pub(super) async fn get(
        cache: &Utf8Path,
        key: &str,
        journal: &mut Journal,
        make: impl AsyncFnOnce(&Utf8Path, &mut Journal) -> Result<()>,
    ) -> Result<Self> {
        let what = || format!("cannot unpack an image in {cache}");
        private_dir(cache)?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(cache.join("lock"))
            .context(ErrorKind::Io, what)?;
        let _one_at_a_time = lock_within(lock, UNPACK_DEADLINE)
            .await
            .context(ErrorKind::Io, || format!("{}: another launch does", what()))?;
        let dir = cache.join(key);
        if !dir.exists() {
            remove_unused(cache);
            // The name is this launch's own: its journal must not undo another launch's work.
            let new = cache.join(format!("new.{}", std::process::id()));
            journal.record(&Step::Tree { path: new.clone() })?;
            remove_tree(&new)?;
            private_dir(&new)?;
            make(&new, journal).await?;
            // The name outlives a crash, so the files must be on the disk before it is given.
            nix::unistd::syncfs(&fs::File::open(&new)?).context(ErrorKind::Io, what)?;
            fs::rename(&new, &dir)?;
        }
        let opened = File::open(&dir).context(ErrorKind::Io, what)?;
        let _ = opened.set_modified(SystemTime::now());
        let in_use = try_lock(opened, Mode::Shared).context(ErrorKind::Io, what)?;
        Ok(Self { dir, _in_use: in_use })
    }

    /// Its directory.
    pub(super) fn dir(&self) -> &Utf8Path {
        &self.dir
    }
}

/// Removes images that nobody uses and nobody has used for a while.
fn remove_unused(cache: &Utf8Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().is_ok_and(|age| age > MAX_IDLE));
        let Ok(dir) = File::open(entry.path()) else { continue };
        if old && entry.path().is_dir() && try_lock(dir, Mode::Exclusive).is_ok() {
            let _ = remove_tree(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::host::fs::utf8;

    async fn get(all: &Utf8Path, key: &str, makes: bool) -> Result<CachedImage> {
        let mut journal =
            Journal::begin(all.parent().expect("a parent").join("journal")).expect("a journal");
        CachedImage::get(all, key, &mut journal, async |dir: &Utf8Path, _: &mut Journal| {
            assert!(makes, "made again");
            fs::write(dir.join("file"), key).context(ErrorKind::Internal, || "write".into())
        })
        .await
    }

    #[tokio::test]
    async fn an_image_is_made_once() {
        let home = tempfile::tempdir().expect("dir");
        let all = utf8("dir", home.path().join("unpacked")).expect("UTF-8");
        let first = get(&all, "a", true).await.expect("made");
        let second = get(&all, "a", false).await.expect("there");
        assert_eq!(first.dir(), second.dir());
        assert_eq!(fs::read_to_string(first.dir().join("file")).expect("read"), "a");
    }

    #[tokio::test]
    async fn what_was_not_finished_is_not_there() {
        let home = tempfile::tempdir().expect("dir");
        let all = utf8("dir", home.path().join("unpacked")).expect("UTF-8");
        let mut journal = Journal::begin(all.with_file_name("journal")).expect("a journal");
        let failed =
            CachedImage::get(&all, "a", &mut journal, async |dir: &Utf8Path, _: &mut Journal| {
                fs::write(dir.join("half"), "").context(ErrorKind::Internal, || "write".into())?;
                Err(Error::new(ErrorKind::Engine, "no more"))
            });
        assert_eq!(failed.await.expect_err("failed").to_string(), "no more");
        let made = get(&all, "a", true).await.expect("made");
        assert!(!made.dir().join("half").exists(), "what the other one left");
    }

    #[tokio::test]
    async fn only_what_is_old_and_not_used_is_removed() {
        let home = tempfile::tempdir().expect("dir");
        let all = utf8("dir", home.path().join("unpacked")).expect("UTF-8");
        let age = |key: &str| {
            let long_ago = SystemTime::now() - MAX_IDLE - Duration::from_secs(60);
            File::open(all.join(key)).and_then(|f| f.set_modified(long_ago)).expect("aged");
        };
        drop(get(&all, "old", true).await.expect("made"));
        let used = get(&all, "used", true).await.expect("made");
        drop(get(&all, "young", true).await.expect("made"));
        age("old");
        age("used");
        drop(get(&all, "new", true).await.expect("made"));
        let there = |key: &str| all.join(key).exists();
        assert_eq!(["old", "used", "young", "new"].map(there), [false, true, true, true]);
        assert!(used.dir().join("file").exists());
    }
}
