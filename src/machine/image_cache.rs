//! Images that an engine has unpacked: made once, then read by every machine and written by none.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Kind, Result};
use crate::state::{Journal, Step, lock_within, private_dir, remove_tree};

/// How long another launch may take to unpack an image.
const PATIENCE: Duration = Duration::from_secs(300);
/// Images that no launch has used for so long are removed when another one is unpacked.
const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

/// An unpacked image. It is not removed while this is held.
#[derive(Debug)]
pub(super) struct Unpacked {
    dir: PathBuf,
    _used: Flock<File>,
}

impl Unpacked {
    /// The image `key` out of `all`, which is a directory of such; `make` fills an empty directory
    /// when there is none yet. Whatever is there is whole: it gets its name when `make` is done and
    /// the disk has it.
    ///
    /// # Errors
    /// As `make`; `Config` when the directory cannot be used.
    pub(super) async fn get(
        all: &Path,
        key: &str,
        journal: &mut Journal,
        make: impl AsyncFnOnce(&Path, &mut Journal) -> Result<()>,
    ) -> Result<Self> {
        let what = || format!("cannot unpack an image in {}", all.display());
        private_dir(all)?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(all.join("lock"))
            .context(Kind::Config, what)?;
        let _one_at_a_time = lock_within(lock, PATIENCE)
            .await
            .context(Kind::Config, || format!("{}: another launch does", what()))?;
        let dir = all.join(key);
        if !dir.exists() {
            remove_unused(all);
            // Of this launch alone: its journal must not undo another one's.
            let new = all.join(format!("new.{}", std::process::id()));
            journal.record(&Step::Tree { path: new.clone() })?;
            remove_tree(&new).context(Kind::Config, what)?;
            private_dir(&new)?;
            make(&new, journal).await?;
            // A name that outlives a crash must not stand for files that do not.
            let flushed = File::open(&new).context(Kind::Config, what)?;
            nix::unistd::syncfs(&flushed).context(Kind::Config, what)?;
            fs::rename(&new, &dir).context(Kind::Config, what)?;
        }
        let opened = File::open(&dir).context(Kind::Config, what)?;
        let _ = opened.set_modified(SystemTime::now());
        let used = Flock::lock(opened, FlockArg::LockSharedNonblock)
            .map_err(|(_, e)| e)
            .context(Kind::Config, what)?;
        Ok(Self { dir, _used: used })
    }

    /// Where it is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Removes what nobody uses and nobody has used for a while.
fn remove_unused(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().is_ok_and(|age| age > KEPT));
        let Ok(dir) = File::open(entry.path()) else { continue };
        if old && entry.path().is_dir() && Flock::lock(dir, FlockArg::LockExclusiveNonblock).is_ok()
        {
            let _ = remove_tree(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    async fn get(all: &Path, key: &str, makes: bool) -> Result<Unpacked> {
        let mut journal =
            Journal::begin(all.parent().expect("a parent").join("journal")).expect("a journal");
        Unpacked::get(all, key, &mut journal, async |dir: &Path, _: &mut Journal| {
            assert!(makes, "made again");
            fs::write(dir.join("file"), key).context(Kind::Internal, || "write".into())
        })
        .await
    }

    #[tokio::test]
    async fn an_image_is_made_once() {
        let home = tempfile::tempdir().expect("dir");
        let all = home.path().join("unpacked");
        let first = get(&all, "a", true).await.expect("made");
        let second = get(&all, "a", false).await.expect("there");
        assert_eq!(first.dir(), second.dir());
        assert_eq!(fs::read_to_string(first.dir().join("file")).expect("read"), "a");
    }

    #[tokio::test]
    async fn what_was_not_finished_is_not_there() {
        let home = tempfile::tempdir().expect("dir");
        let all = home.path().join("unpacked");
        let mut journal = Journal::begin(home.path().join("journal")).expect("a journal");
        let failed = Unpacked::get(&all, "a", &mut journal, async |dir: &Path, _: &mut Journal| {
            fs::write(dir.join("half"), "").context(Kind::Internal, || "write".into())?;
            Err(Error::new(Kind::Engine, "no more"))
        });
        assert_eq!(failed.await.expect_err("failed").to_string(), "no more");
        let made = get(&all, "a", true).await.expect("made");
        assert!(!made.dir().join("half").exists(), "what the other one left");
    }

    #[tokio::test]
    async fn only_what_is_old_and_not_used_is_removed() {
        let home = tempfile::tempdir().expect("dir");
        let all = home.path().join("unpacked");
        let age = |key: &str| {
            let long_ago = SystemTime::now() - KEPT - Duration::from_secs(60);
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
