//! An approval that is also a change of the manifest.

use std::path::{Path, PathBuf};

use bottle_policy::{Ask, RouteAsk};

use super::outcome::Rejection;
use super::proposal::Scope;
use super::save::edit_manifest;
use super::state::BrokerState;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::manifest::parse;
use crate::manifest_files::{DirFiles, USER_SKILLS};

impl BrokerState {
    /// The changed manifest, where the scope asks for one.
    pub(super) fn edit(
        &self,
        ask: &Ask,
        route: Option<&RouteAsk>,
        scope: Scope,
    ) -> Result<Option<Edit>, Rejection> {
        Ok((scope == Scope::Save).then(|| self.manifest_with(ask, route)).transpose()?)
    }

    /// The manifest of this launch with what was approved.
    pub(super) fn manifest_with(&self, ask: &Ask, route: Option<&RouteAsk>) -> Result<Edit> {
        let path = self.plan.manifest.clone().ok_or_else(|| {
            Error::new(
                ErrorKind::Usage,
                "this bottle runs a built-in agent: there is no manifest to write to",
            )
            .hint("approve without --save")
        })?;
        let what = || format!("cannot read {}", path.display());
        let old = std::fs::read_to_string(&path).context(ErrorKind::Config, what)?;
        let new = edit_manifest(&old, self.plan.bottle.as_str(), ask, route)?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let user_skills = home.as_ref().map(|h| h.join(USER_SKILLS));
        let files = DirFiles {
            dir: dir.canonicalize().context(ErrorKind::Config, what)?,
            home,
            user_skills,
        };
        parse(new.as_bytes(), &path, &files).map_err(|e| {
            Error::new(ErrorKind::Config, format!("the manifest would be wrong then: {e}"))
        })?;
        Ok(Edit { path, old, new })
    }
}

/// A changed manifest.
pub(super) struct Edit {
    pub(super) path: PathBuf,
    old: String,
    new: String,
}

impl Edit {
    /// Replaces the manifest, if it still has the text that the change was made from.
    pub(super) fn write(&self) -> Result<()> {
        use std::io::Write;
        let what = || format!("cannot write {}", self.path.display());
        if std::fs::read_to_string(&self.path).context(ErrorKind::Config, what)? != self.old {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} was changed in the meantime", self.path.display()),
            ));
        }
        let real = std::fs::canonicalize(&self.path).context(ErrorKind::Config, what)?;
        let mut file = tempfile::NamedTempFile::new_in(real.parent().unwrap_or(&real))
            .context(ErrorKind::Io, what)?;
        file.write_all(self.new.as_bytes()).context(ErrorKind::Io, what)?;
        let mode = std::fs::metadata(&real).context(ErrorKind::Config, what)?.permissions();
        file.as_file().set_permissions(mode).context(ErrorKind::Io, what)?;
        file.persist(&real).map_err(|e| e.error).context(ErrorKind::Io, what)?;
        Ok(())
    }
}
