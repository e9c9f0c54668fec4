//! `bottle reload`: other policies for a running bottle.

use std::path::{Path, PathBuf};

use bottle_policy::{GatePolicy, Policy};

use super::plan_args;
use crate::credentials::git::with_rules;
use crate::error::{Context, Error, Kind, Result};
use crate::host::stderr::say;
use crate::live_policy::InForce;
use crate::manifest::{self, EgressChain, Manifest, find};
use crate::plan::{LaunchPlan, diff, not_reloadable, replan};
use crate::state::Roots;
use crate::supervise::Queue;

/// Read a running bottle's manifest again and put its new routes and git rules in force.
///
/// Routes, and what may be pushed, can change while a bottle runs; routes can use only the tokens
/// that it was launched with. Anything else that the manifest says differently is named, and
/// nothing is done. Connections that a new policy still allows go on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The bottle.
    name: String,
    /// Read this manifest instead of the one that the bottle was launched from.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let dir = Roots::from_environment()?.bottle(&self.name)?;
        let egress = InForce::<Policy>::read(&dir)?;
        let what = || format!("cannot read {}", dir.plan().display());
        let running = std::fs::read(dir.plan()).context(Kind::Config, what)?;
        let mut running: LaunchPlan =
            serde_json::from_slice(&running).context(Kind::Config, what)?;
        let gate =
            (!running.git.is_empty()).then(|| InForce::<GatePolicy>::read(&dir)).transpose()?;
        let manifest = self.manifest(&running)?;
        let new = replan(&running, &manifest, &|name| std::env::var(name).ok())
            .map_err(plan_args::plan_error)?;
        let others = not_reloadable(&running, &new);
        if !others.is_empty() {
            let message = format!(
                "more than routes and rules of git changed since {:?} was launched:\n{}",
                self.name,
                others.join("\n")
            );
            return Err(Error::new(Kind::Config, message)
                .hint(format!("bottle stop {}, and launch it again", self.name)));
        }
        let mut policy = new.policy.clone();
        egress.complete(&running, &mut policy);
        let routes = (policy != *egress.policy()).then_some(egress);
        if routes.is_some() {
            self.can_reload(&running)?;
        }
        let granted = Queue::read(&dir, true)?;
        let rules = gate
            .map(|gate| (granted.with_git_grants(with_rules(gate.policy(), &new)), gate))
            .filter(|(rules, gate)| rules != gate.policy());
        if routes.is_none() && rules.is_none() {
            say(format_args!("bottle: {}: nothing changed", self.name));
            return Ok(0);
        }
        // What is compared is what is in force, which an earlier reload may have made.
        running.policy = routes.as_ref().map_or(&policy, InForce::policy).clone();
        running.git.clone_from(&new.git);
        for upstream in rules.iter().flat_map(|(_, gate)| &gate.policy().upstreams) {
            if let Some(git) = running.git.iter_mut().find(|git| git.name == upstream.name) {
                (git.push, git.stale) = (upstream.push.clone(), upstream.stale);
            }
        }
        running.tokens.clone_from(&new.redacted().tokens);
        diff(&running, &LaunchPlan { policy: policy.clone(), ..new.redacted() })
            .iter()
            .for_each(say);
        if let Some(egress) = routes {
            egress.replace(&policy)?;
            say(format_args!("bottle: {}: policy {} is in force", self.name, policy.digest()));
        }
        if let Some((rules, gate)) = rules {
            gate.replace(&rules)?;
            say(format_args!(
                "bottle: {}: git-gate's policy {} is in force",
                self.name,
                rules.digest()
            ));
        }
        Ok(0)
    }

    /// Only our own daemon watches its policy.
    fn can_reload(&self, running: &LaunchPlan) -> Result<()> {
        if running.bundle_egress == EgressChain::Bottle {
            return Ok(());
        }
        let message =
            format!("the egress chain {} reads its policy at launch only", running.bundle_egress);
        Err(Error::new(Kind::Usage, message)
            .hint(format!("bottle stop {}, and launch it again", self.name)))
    }

    /// The manifest as it is now. One that was found at launch must still be this user's (or
    /// root's).
    fn manifest(&self, running: &LaunchPlan) -> Result<Manifest> {
        let gone = |path: &Path| {
            Error::new(Kind::Config, format!("{} is not there any more", path.display()))
                .hint("name another: --manifest FILE")
        };
        let search = match (&self.manifest, &running.manifest) {
            (Some(named), _) => plan_args::search(plan_args::here()?, Some(named.clone())),
            (None, None) => {
                return Err(Error::new(
                    Kind::Usage,
                    format!(
                        "bottle {:?} runs a built-in agent: there is no manifest to read again",
                        self.name
                    ),
                ));
            }
            (None, Some(file)) => {
                let start = file.parent().ok_or_else(|| gone(file))?.to_owned();
                if file.file_name().is_some_and(|name| name == manifest::FILE_NAME) {
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
        manifest::load(&search).map_err(|e| Error::new(Kind::Config, e.to_string()))
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
    fn a_chain_that_would_not_notice_is_not_reloaded() {
        let args = Args { name: "demo".into(), manifest: None };
        for chain in EgressChain::ALL {
            let running = LaunchPlan { bundle_egress: chain, ..demo_plan() };
            assert_eq!(args.can_reload(&running).is_ok(), chain == EgressChain::Bottle, "{chain}");
        }
    }

    #[test]
    fn the_manifest_of_the_launch_is_read_again_and_no_other() {
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
        assert_eq!(read(None, None).unwrap_err().kind(), Kind::Usage);
        fs::write(&file, "version = 2").unwrap();
        assert_eq!(read(Some(file.clone()), None).unwrap_err().kind(), Kind::Config);
        fs::remove_file(&file).unwrap();
        let e = read(Some(file.clone()), None).unwrap_err();
        assert!(e.to_string().contains("is not there any more"), "the one above is another: {e}");
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
