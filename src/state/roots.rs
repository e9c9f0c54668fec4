//! The two directories under which all bottles of this user live.

use std::path::Path;

use camino::Utf8PathBuf;
use fs_err as fs;

use super::bottle::BottleDir;
use crate::error::{Error, ErrorKind, Result};
use crate::host::fs::{is_private_dir, private_dir, utf8};

/// Longest path that fits a Unix socket address (`sun_path`, 108 bytes with the final NUL).
const SOCKET_PATH_LIMIT: usize = 107;
/// Longest file name that a bottle puts into its runtime directory.
const LONGEST_SOCKET_NAME: &str = "/supervise.sock";

/// The two roots under which all bottles of this user live.
#[derive(Debug, Clone)]
pub struct Roots {
    state: Utf8PathBuf,
    runtime: Utf8PathBuf,
}

impl Roots {
    /// Reads XDG_STATE_HOME, XDG_RUNTIME_DIR and HOME, and creates both roots with mode 0700.
    ///
    /// # Errors
    /// `Config` when neither XDG_STATE_HOME nor HOME is set, or when a root is not UTF-8 or belongs
    /// to somebody else; `Io` when it cannot be created.
    pub fn from_environment() -> Result<Self> {
        let absolute = |name: &str| {
            let value = std::env::var_os(name).map(std::path::PathBuf::from);
            value.filter(|p| p.is_absolute()).map(|p| utf8(name, p)).transpose()
        };
        let state = match (absolute("XDG_STATE_HOME")?, absolute("HOME")?) {
            (Some(dir), _) => dir.join("bottle"),
            (None, Some(home)) => home.join(".local/state/bottle"),
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Config,
                    "neither XDG_STATE_HOME nor HOME names an absolute directory",
                )
                .hint("export HOME=/path/to/your/home"));
            }
        };
        let runtime = absolute("XDG_RUNTIME_DIR")?
            .filter(|d| is_private_dir(d))
            .map_or_else(|| state.join("run"), |d| d.join("bottle"));
        Self::at(state, runtime)
    }

    /// Uses the given roots; see [`Roots::from_environment`].
    ///
    /// # Errors
    /// As [`Roots::from_environment`].
    pub fn at(state: impl AsRef<Path>, runtime: impl AsRef<Path>) -> Result<Self> {
        let (state, runtime) =
            (utf8("the state directory", state)?, utf8("the runtime directory", runtime)?);
        for dir in [&state, &state.join("bottles"), &runtime] {
            private_dir(dir)?;
        }
        Ok(Self { state, runtime })
    }

    /// The file that remembers which store files have been verified (see `Closure::verify`).
    #[must_use]
    pub fn verified(&self) -> Utf8PathBuf {
        self.state.join("verified.json")
    }

    /// The directory where engines keep images that they have unpacked.
    #[must_use]
    pub fn image_cache(&self) -> Utf8PathBuf {
        self.state.join("unpacked")
    }

    /// The directory of links that keep images from Nix's garbage collector.
    ///
    /// # Errors
    /// `Io` when it cannot be made.
    pub fn images(&self) -> Result<Utf8PathBuf> {
        let dir = self.state.join("images");
        private_dir(&dir)?;
        Ok(dir)
    }

    /// The paths of the bottle `slug`, which need not exist yet.
    ///
    /// # Errors
    /// `Usage` when `slug` is no slug, `Config` when its sockets' paths would be too long for the
    /// kernel.
    pub fn bottle(&self, slug: &str) -> Result<BottleDir> {
        let fits = slug.len() <= 32 && !slug.is_empty() && !slug.starts_with('-');
        if !fits || !slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{slug:?} is not a bottle's name (a-z, 0-9 and -, at most 32)"),
            )
            .hint("bottle list"));
        }
        let runtime = self.runtime.join(slug);
        if runtime.as_str().len() + LONGEST_SOCKET_NAME.len() > SOCKET_PATH_LIMIT {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{runtime} is too long for a socket's path ({SOCKET_PATH_LIMIT} bytes)"),
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
    /// `Io` when the state directory cannot be read.
    pub fn bottles(&self) -> Result<Vec<BottleDir>> {
        let dir = self.state.join("bottles");
        let entries = fs::read_dir(&dir)?;
        let mut names: Vec<_> =
            entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names.iter().filter_map(|n| self.bottle(n).ok()).collect())
    }
}
