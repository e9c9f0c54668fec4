//! Per-bottle directories, metadata, locks and the launch journal; everything private to the host
//! user.
//!
//! `STATE/bottles/SLUG/` keeps what outlives a launch (metadata, plan, audit log); `RUNTIME/SLUG/`
//! holds sockets and the policy file and goes away with the launch. STATE is
//! `$XDG_STATE_HOME/bottle`, RUNTIME `$XDG_RUNTIME_DIR/bottle`, or `STATE/run` where there is no
//! runtime directory.

mod bottle;
mod bottle_state;
mod copy;
mod journal;

pub use bottle::{BottleDir, BottleStatus, Metadata, Phase, now_ms};
pub use bottle_state::BottleState;
pub use copy::copy_tree;
pub use journal::{Journal, ProcessId, Step, terminate};

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Kind, Result};

/// Longest path that fits a Unix socket address (`sun_path`, 108 bytes with the final NUL).
const SOCKET_PATH_LIMIT: usize = 107;
/// Longest file name that a bottle puts into its runtime directory.
const LONGEST_SOCKET_NAME: &str = "/supervise.sock";

/// The two roots under which all bottles of this user live.
#[derive(Debug, Clone)]
pub struct Roots {
    state: PathBuf,
    runtime: PathBuf,
}

impl Roots {
    /// Reads XDG_STATE_HOME, XDG_RUNTIME_DIR and HOME, and creates both roots with mode 0700.
    ///
    /// # Errors
    /// `Config` when neither XDG_STATE_HOME nor HOME is set, when a root cannot be created, or when
    /// it belongs to somebody else.
    pub fn from_environment() -> Result<Self> {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let state = match (absolute("XDG_STATE_HOME"), absolute("HOME")) {
            (Some(dir), _) => dir.join("bottle"),
            (None, Some(home)) => home.join(".local/state/bottle"),
            (None, None) => {
                return Err(Error::new(
                    Kind::Config,
                    "neither XDG_STATE_HOME nor HOME names an absolute directory",
                )
                .hint("export HOME=/path/to/your/home"));
            }
        };
        let runtime = absolute("XDG_RUNTIME_DIR")
            .filter(|d| is_private(d))
            .map_or_else(|| state.join("run"), |d| d.join("bottle"));
        Self::at(state, runtime)
    }

    /// Uses the given roots; see [`Roots::from_environment`].
    ///
    /// # Errors
    /// As [`Roots::from_environment`].
    pub fn at(state: PathBuf, runtime: PathBuf) -> Result<Self> {
        for dir in [&state, &state.join("bottles"), &runtime] {
            private_dir(dir)?;
        }
        Ok(Self { state, runtime })
    }

    /// Where what has been verified once is remembered (see `closure`).
    #[must_use]
    pub fn verified(&self) -> PathBuf {
        self.state.join("verified.json")
    }

    /// Where engines keep images that they have unpacked.
    #[must_use]
    pub fn unpacked(&self) -> PathBuf {
        self.state.join("unpacked")
    }

    /// Where links keep images from Nix's garbage collector.
    ///
    /// # Errors
    /// `Config` when it cannot be made.
    pub fn images(&self) -> Result<PathBuf> {
        let dir = self.state.join("images");
        private_dir(&dir)?;
        Ok(dir)
    }

    /// The directory of the bottle `slug`, which need not exist yet.
    ///
    /// # Errors
    /// `Usage` when `slug` is no slug, `Config` when its sockets' paths would be too long for the
    /// kernel.
    pub fn bottle(&self, slug: &str) -> Result<BottleDir> {
        let fits = slug.len() <= 32 && !slug.is_empty() && !slug.starts_with('-');
        if !fits || !slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(Error::new(
                Kind::Usage,
                format!("{slug:?} is not a bottle's name (a-z, 0-9 and -, at most 32)"),
            )
            .hint("bottle list"));
        }
        let runtime = self.runtime.join(slug);
        if runtime.as_os_str().len() + LONGEST_SOCKET_NAME.len() > SOCKET_PATH_LIMIT {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "{} is too long for a socket's path ({SOCKET_PATH_LIMIT} bytes)",
                    runtime.display()
                ),
            )
            .hint(
                "export XDG_RUNTIME_DIR=/run/user/$(id -u)   # or another short private directory",
            ));
        }
        Ok(BottleDir::new(slug.to_owned(), self.state.join("bottles").join(slug), runtime))
    }

    /// All bottles that have a directory, by name.
    ///
    /// # Errors
    /// `Config` when the state directory cannot be read.
    pub fn bottles(&self) -> Result<Vec<BottleDir>> {
        let dir = self.state.join("bottles");
        let entries = fs::read_dir(&dir)
            .context(Kind::Config, || format!("cannot read {}", dir.display()))?;
        let mut names: Vec<_> =
            entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names.iter().filter_map(|n| self.bottle(n).ok()).collect())
    }
}

/// Whether `path` is a directory that only this user can change: whoever can rename in it could
/// swap a bottle's policy.
fn is_private(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| {
        m.is_dir() && m.uid() == nix::unistd::geteuid().as_raw() && m.mode() & 0o077 == 0
    })
}

/// The exclusive lock of `file`, waiting at most `limit` for others to give it up.
///
/// # Errors
/// `WouldBlock` when they do not, else as flock(2).
pub async fn lock_within(mut file: File, limit: Duration) -> std::io::Result<Flock<File>> {
    let began = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) if began.elapsed() < limit => file = again,
            Err((_, e)) => return Err(e.into()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What is free for this user on the file system of `dir`, MiB.
///
/// # Errors
/// `Config` when it cannot be read.
pub fn free_mib(dir: &Path) -> Result<u64> {
    let found = nix::sys::statvfs::statvfs(dir)
        .context(Kind::Config, || format!("cannot read {}", dir.display()))?;
    Ok((found.blocks_available() * found.fragment_size()) >> 20)
}

/// Creates `path` with mode 0700 (parents too), or checks that it is this user's and makes it
/// private.
///
/// # Errors
/// `Config` when it cannot be made, is no directory, or belongs to another user.
pub fn private_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(Kind::Config, || format!("cannot create {}", path.display()))?;
    let meta = fs::symlink_metadata(path)
        .context(Kind::Config, || format!("cannot read {}", path.display()))?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Error::new(
            Kind::Config,
            format!("{} is not a directory of this user", path.display()),
        )
        .hint(format!(
            "ls -ld {}   # remove it, or set XDG_STATE_HOME and XDG_RUNTIME_DIR",
            path.display()
        )));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .context(Kind::Config, || format!("cannot make {} private", path.display()))?;
    }
    Ok(())
}

/// Writes `bytes` to `path` with mode 0600 so that a reader sees the old content or the new, never
/// a part.
///
/// # Errors
/// `Config` when the file cannot be written (a full disk, a read-only directory).
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir).context(Kind::Config, what)?; // created 0600
    file.write_all(bytes).context(Kind::Config, what)?;
    file.persist(path).map_err(|e| e.error).context(Kind::Config, what)?;
    Ok(())
}

/// Removes the directory `path` with all that is in it, directories that may not be written
/// included. There may be none.
///
/// # Errors
/// As `remove_dir_all`.
pub fn remove_tree(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            unlock(path)?;
            fs::remove_dir_all(path)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Gives the owner every right to the directories below `path`.
fn unlock(path: &Path) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}
