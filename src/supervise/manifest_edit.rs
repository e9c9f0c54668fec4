//! An approval that is also a change of the manifest.

use bottle_policy::{Ask, RouteAsk, UpstreamName};

use super::broker::{No, Work};
use super::{Proposal, Scope};
use crate::error::{Context, Error, Kind, Result};
use crate::manifest::{DirFiles, USER_SKILLS, parse};
use crate::plan::LaunchPlan;

impl Work {
    /// The changed manifest, if it is to be changed.
    pub(super) fn edit(
        &self,
        ask: &Ask,
        route: Option<&RouteAsk>,
        scope: Scope,
    ) -> Result<Option<Edit>, No> {
        let edit = (scope == Scope::Save).then(|| self.manifest_with(ask, route)).transpose();
        edit.map_err(|e| (e.to_string(), e.hint_text().map(str::to_owned)))
    }

    /// The manifest of this launch with what was approved.
    pub(super) fn manifest_with(&self, ask: &Ask, route: Option<&RouteAsk>) -> Result<Edit> {
        let path = self.plan.manifest.clone().ok_or_else(|| {
            Error::new(
                Kind::Usage,
                "this bottle runs a built-in agent: there is no manifest to write to",
            )
            .hint("approve without --save")
        })?;
        let what = || format!("cannot read {}", path.display());
        let old = std::fs::read_to_string(&path).context(Kind::Config, what)?;
        let new = super::saved(&old, self.plan.bottle.as_str(), ask, route)?;
        let dir = path.parent().unwrap_or(std::path::Path::new("/"));
        let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
        let user_skills = home.as_ref().map(|h| h.join(USER_SKILLS));
        let files =
            DirFiles { dir: dir.canonicalize().context(Kind::Config, what)?, home, user_skills };
        parse(new.as_bytes(), &path, &files).map_err(|e| {
            Error::new(Kind::Config, format!("the manifest would be wrong then: {e}"))
        })?;
        Ok(Edit { path, old, new })
    }
}

/// A changed manifest.
pub(super) struct Edit {
    pub(super) path: std::path::PathBuf,
    old: String,
    new: String,
}

impl Edit {
    /// Puts it in the place of the old one, if that is still what it was made of.
    pub(super) fn write(&self) -> Result<()> {
        use std::io::Write;
        let what = || format!("cannot write {}", self.path.display());
        if std::fs::read_to_string(&self.path).context(Kind::Config, what)? != self.old {
            return Err(Error::new(
                Kind::Config,
                format!("{} was changed in the meantime", self.path.display()),
            ));
        }
        let real = std::fs::canonicalize(&self.path).context(Kind::Config, what)?;
        let mut file = tempfile::NamedTempFile::new_in(real.parent().unwrap_or(&real))
            .context(Kind::Config, what)?;
        file.write_all(self.new.as_bytes()).context(Kind::Config, what)?;
        let mode = std::fs::metadata(&real).context(Kind::Config, what)?.permissions();
        file.as_file().set_permissions(mode).context(Kind::Config, what)?;
        file.persist(&real).map_err(|e| e.error).context(Kind::Config, what)?;
        Ok(())
    }
}

/// Whether this launch has from its manifest what was approved.
pub(super) fn is_in_manifest(plan: &LaunchPlan, proposal: &Proposal) -> bool {
    let upstream = |name: &UpstreamName| {
        plan.git.iter().find(|g| g.name == *name).and_then(|g| g.push.as_ref())
    };
    match &proposal.ask {
        Ask::Route(asked) => proposal
            .decision
            .as_ref()
            .and_then(|d| d.route.as_ref())
            .unwrap_or(asked)
            .is_allowed_by(&plan.policy),
        Ask::GitUpstream { url, .. } => plan.git.iter().any(|g| g.url.as_str() == url.as_str()),
        Ask::Ref { upstream: name, branches } => {
            upstream(name).is_some_and(|p| branches.iter().all(|b| p.branches.contains(b)))
        }
        Ask::Finding { upstream: name, fingerprint } => {
            upstream(name).is_some_and(|p| p.allow.contains(fingerprint))
        }
        Ask::Question { .. } => true,
    }
}
