//! Finding and reading `closure.json`.

use camino::{Utf8Path, Utf8PathBuf};

use super::format::{Closure, Image};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::utf8;

/// Environment variable that names another closure.json (the dev shell and tests set it).
pub const VARIABLE: &str = "BOTTLE_CLOSURE";

impl Closure {
    /// Reads the closure that `$BOTTLE_CLOSURE` names, or the one installed with this executable.
    ///
    /// # Errors
    /// `Engine` when there is none or it cannot be read.
    pub fn load() -> Result<Self> {
        Self::read(&Self::location()?)
    }

    fn location() -> Result<Utf8PathBuf> {
        if let Some(path) = std::env::var_os(VARIABLE) {
            return utf8(VARIABLE, path);
        }
        let exe = std::env::current_exe()
            .context(ErrorKind::Internal, || "cannot tell where this program is".into())?;
        let exe = utf8("the path of this program", exe)?;
        let installed =
            exe.parent().and_then(Utf8Path::parent).map(|p| p.join("share/bottle/closure.json"));
        installed.filter(|p| p.exists()).ok_or_else(|| {
            Error::new(
                ErrorKind::Engine,
                format!("{exe} has no closure.json beside it, so there is nothing to boot"),
            )
            .hint(format!(
                "nix/bootstrap run .#bottle -- …   # or export {VARIABLE}=/path/to/closure.json"
            ))
        })
    }

    /// Reads the closure in `path`.
    ///
    /// # Errors
    /// `Engine` when it cannot be read or has another version.
    pub fn read(path: &Utf8Path) -> Result<Self> {
        let rebuild = "nix/bootstrap build .#bottle   # builds it anew";
        let text = std::fs::read(path)
            .context(ErrorKind::Engine, || format!("cannot read the closure {path}"))
            .map_err(|e| e.hint(rebuild))?;
        let mut closure: Self = serde_json::from_slice(&text)
            .context(ErrorKind::Engine, || format!("{path} is not a closure"))
            .map_err(|e| e.hint(rebuild))?;
        if closure.version != 1 {
            return Err(Error::new(
                ErrorKind::Engine,
                format!("{path} has version {}, this bottle reads 1", closure.version),
            )
            .hint(rebuild));
        }
        closure.read_builders(path).map_err(|e| e.hint(rebuild))?;
        Ok(closure)
    }

    /// The image `name`.
    ///
    /// # Errors
    /// `Config` when there is no such image.
    pub fn image(&self, name: &str) -> Result<&Image> {
        self.images.get(name).ok_or_else(|| {
            let known: Vec<_> =
                self.images.keys().chain(self.deferred.keys()).map(String::as_str).collect();
            Error::new(ErrorKind::Config, format!("there is no image {name:?}"))
                .hint(format!("one of: {}", known.join(", ")))
        })
    }
}
