//! `bottle reload`: applies a changed manifest to a running bottle.

use std::path::{Path, PathBuf};

use super::plan_args;
use crate::credentials::git::with_rules;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::runtime::block_on;
use crate::host::stderr::note;
use crate::launch::reload;
use crate::live_policy::{self, NewPolicy, Reload};
use crate::manifest::{EgressChain, Manifest};
use crate::manifest_files::{self, find};
use crate::plan::{LaunchPlan, diff, not_reloadable, replan};
use crate::state::Roots;
use crate::supervise::Queue;

/// Read a running bottle's manifest again and apply its new routes and git rules.
///
/// Routes and push rules can change while a bottle runs; routes can only use the tokens that it was
/// launched with. If anything else in the manifest has changed, names it and does nothing.
/// Connections that the new policy still allows go on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the bottle.
    name: String,
    /// Read this manifest instead of the one that the bottle was launched from.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let dir = Roots::from_environment()?.bottle(&self.name)?;
        live_policy::require_running(&dir)?;
        let in_force = live_policy::in_force(&dir)?;
        let what = || format!("cannot read {}", dir.plan());
        let running = std::fs::read(dir.plan()).context(ErrorKind::Config, what)?;
        let mut running: LaunchPlan =
            serde_json::from_slice(&running).context(ErrorKind::Config, what)?;
        let manifest = self.manifest(&running)?;
        let new = replan(&running, &manifest, &|name| std::env::var(name).ok())
            .map_err(plan_args::plan_error)?;
        self.check_reloadable(&running, &new)?;
        let mut policy = new.policy.clone();
        in_force.complete(&running, &mut policy);
        let routes = Some(policy.clone()).filter(|policy| *policy != in_force.routes);
        if routes.is_some() {
            self.check_chain(&running)?;
        }
        let granted = Queue::read(&dir, true)?;
        let rules = in_force.git.as_ref().and_then(|gate| {
            let rules = granted.with_git_grants(with_rules(gate, &new));
            (rules != *gate).then_some((gate, rules))
        });
        if routes.is_none() && rules.is_none() {
            note(format_args!("bottle: {}: nothing changed", self.name));
            return Ok(0);
        }
        // Compares with what is in force, which may come from an earlier reload.
        running.policy.clone_from(&in_force.routes);
        running.git.clone_from(&new.git);
        for upstream in rules.iter().flat_map(|(gate, _)| &gate.upstreams) {
            if let Some(git) = running.git.iter_mut().find(|git| git.name == upstream.name) {
                (git.push, git.stale) = (upstream.push.clone(), upstream.stale);
            }
        }
        running.tokens.clone_from(&new.redacted().tokens);
        diff(&running, &LaunchPlan { policy, ..new.redacted() }).iter().for_each(note);
        block_on(async {
            if let Some(policy) = routes {
                let (against, digest) = (in_force.routes.digest(), policy.digest());
                reload(&dir, Reload { against, policy: NewPolicy::Egress(policy) }).await?;
                note(format_args!("bottle: {}: policy {digest} is in force", self.name));
            }
            if let Some((gate, rules)) = rules {
                let (against, digest) = (gate.digest(), rules.digest());
                reload(&dir, Reload { against, policy: NewPolicy::GitGate(rules) }).await?;
                note(format_args!("bottle: {}: git-gate's policy {digest} is in force", self.name));
            }
            Ok(0)
        })
    }

    /// Refuses a manifest that differs in more than routes and rules of git.
    fn check_reloadable(&self, running: &LaunchPlan, new: &LaunchPlan) -> Result<()> {
        let others = not_reloadable(running, new);
        if others.is_empty() {
            return Ok(());
        }
        let message = format!(
            "more than routes and rules of git changed since {:?} was launched:\n{}",
            self.name,
            others.join("\n")
        );
        Err(Error::new(ErrorKind::Config, message)
            .hint(format!("bottle stop {}, and launch it again", self.name)))
    }

    /// Refuses the chain whose pipelock reads its configuration only at launch.
    fn check_chain(&self, running: &LaunchPlan) -> Result<()> {
        if running.bundle_egress != EgressChain::MitmproxyPipelock {
            return Ok(());
        }
        let message =
            format!("the egress chain {} reads its policy at launch only", running.bundle_egress);
        Err(Error::new(ErrorKind::Usage, message)
            .hint(format!("bottle stop {}, and launch it again", self.name)))
    }

    /// Reads the manifest again. One that was found at launch must still belong to this user or
    /// root.
    fn manifest(&self, running: &LaunchPlan) -> Result<Manifest> {
        let gone = |path: &Path| {
            Error::new(ErrorKind::Config, format!("{} does not exist any more", path.display()))
                .hint("name another: --manifest FILE")
        };
        let search = match (&self.manifest, &running.manifest) {
            (Some(named), _) => plan_args::search(plan_args::here()?, Some(named.clone())),
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!(
                        "bottle {:?} runs a built-in agent: there is no manifest to read again",
                        self.name
                    ),
                ));
            }
            (None, Some(file)) => {
                let start = file.parent().ok_or_else(|| gone(file))?.to_owned();
                if file.file_name().is_some_and(|name| name == manifest_files::FILE_NAME) {
                    let search = plan_args::search(start, None);
                    if find(&search.start, search.home.as_deref()).as_deref() != Some(file) {
                        return Err(gone(file));
                    }
                    search
                } else {
                    plan_args::search(start, Some(file.clone()))
                }
            }
        };
        manifest_files::load(&search).map_err(|e| Error::new(ErrorKind::Config, e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::plan::tests::demo_plan;

    fn read(manifest: Option<PathBuf>, named: Option<PathBuf>) -> Result<Manifest> {
        let running = LaunchPlan { manifest, ..demo_plan() };
        Args { name: "demo".into(), manifest: named }.manifest(&running)
    }

    #[test]
    fn only_a_chain_that_watches_its_policy_is_reloaded() {
        let args = Args { name: "demo".into(), manifest: None };
        for chain in EgressChain::ALL {
            let running = LaunchPlan { bundle_egress: chain, ..demo_plan() };
            assert_eq!(
                args.check_chain(&running).is_ok(),
                chain != EgressChain::MitmproxyPipelock,
                "{chain}"
            );
        }
    }

    #[test]
    fn the_manifest_of_the_launch_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("p");
        fs::create_dir(&below).unwrap();
        let (file, other) = (below.join("bottle.toml"), dir.path().join("other.toml"));
        fs::write(dir.path().join("bottle.toml"), "version = 1\n[bottles.above]\n").unwrap();
        fs::write(&file, "version = 1\n[bottles.own]\n").unwrap();
        fs::write(&other, "version = 1\n[bottles.other]\n").unwrap();
        let has = |m: Manifest, name: &str| m.bottles.keys().any(|k| k.as_str() == name);
        assert!(has(read(Some(file.clone()), None).unwrap(), "own"));
        assert!(has(read(Some(other.clone()), None).unwrap(), "other"), "it was named at launch");
        assert!(has(read(Some(file.clone()), Some(other)).unwrap(), "other"), "it is named now");
        assert_eq!(read(None, None).unwrap_err().kind(), ErrorKind::Usage);
        fs::write(&file, "version = 2").unwrap();
        assert_eq!(read(Some(file.clone()), None).unwrap_err().kind(), ErrorKind::Config);
        fs::remove_file(&file).unwrap();
        let e = read(Some(file.clone()), None).unwrap_err();
        assert!(e.to_string().contains("does not exist any more"), "the one above is another: {e}");
        fs::write(&file, "version = 1").unwrap();
        // Only root can make another user's file.
        if nix::unistd::geteuid().is_root()
            && nix::unistd::chown(&file, Some(nix::unistd::Uid::from_raw(12345)), None).is_ok()
        {
            assert!(
                read(Some(file.clone()), None)
                    .unwrap_err()
                    .to_string()
                    .contains("belongs to another user")
            );
            assert!(read(Some(file.clone()), Some(file)).is_ok(), "unless it is named");
        }
    }
}
