//! git-gate's policy and secrets, made from the plan's upstreams and the operator's pinned host
//! keys.

use std::collections::BTreeMap;
use std::path::Path;

use bottle_policy::{Access, GateInput, GatePolicy, GateUpstream, Secret, TokenName};

use crate::bundle::GateSpec;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::read_small_text;
use crate::manifest::GitSpec;
use crate::plan::LaunchPlan;

/// Longest known_hosts file, bytes.
const MAX_KNOWN_HOSTS_BYTES: usize = 1 << 20;

/// The policy of git-gate; `None` when the plan has no repository.
///
/// # Errors
/// `Config` when a file that an upstream needs is missing: pinned host keys, or the ssh key.
pub(crate) fn policy(plan: &LaunchPlan) -> Result<Option<GatePolicy>> {
    if plan.git.is_empty() {
        return Ok(None);
    }
    let upstreams =
        plan.git.iter().enumerate().map(|(i, git)| upstream(i, git)).collect::<Result<_>>()?;
    Ok(Some(GatePolicy {
        version: 1,
        agent: plan.agent.to_string(),
        slug: plan.slug.to_string(),
        upstreams,
    }))
}

/// The policy in force with the push rules of `plan`, which has the same upstreams.
#[must_use]
pub fn with_rules(in_force: &GatePolicy, plan: &LaunchPlan) -> GatePolicy {
    let mut policy = in_force.clone();
    for upstream in &mut policy.upstreams {
        if let Some(git) = plan.git.iter().find(|git| git.name == upstream.name) {
            (upstream.push, upstream.stale) = (git.push.clone(), git.stale);
        }
    }
    policy
}

/// A policy with its secrets. `tokens` are all secrets of the bundle. git-gate uses some of them,
/// and looks for the rest, and for `others`, in what is pushed.
pub(crate) fn spec<'a>(
    policy: GatePolicy,
    tokens: impl Iterator<Item = (&'a TokenName, &'a Secret)>,
    others: [(&str, &Secret); 1],
) -> Result<GateSpec> {
    let used = |name: &TokenName| {
        policy.upstreams.iter().any(|u| {
            matches!(&u.access, Access::Token(t) | Access::Key(t) if t == name)
                || u.attest.as_ref() == Some(name)
        })
    };
    let (used, unused): (BTreeMap<_, _>, BTreeMap<_, _>) =
        tokens.map(|(n, v)| (n.clone(), v.clone())).partition(|(name, _)| used(name));
    let mut secrets = unused;
    for (name, value) in others {
        let name = name.parse().context(ErrorKind::Internal, || format!("{name} is no name"))?;
        secrets.insert(name, value.clone());
    }
    Ok(GateSpec { policy, input: GateInput { tokens: used, secrets } })
}

/// Name of the deploy key of upstream number `i` in git-gate's policy.
pub(crate) fn key_name(i: usize) -> Result<TokenName> {
    format!("BOTTLE_DEPLOY_KEY_{}", i + 1)
        .parse()
        .context(ErrorKind::Internal, || "a deploy key's name is none".into())
}

/// Name of the key that attests pushes to upstream number `i`.
fn attest_name(i: usize) -> Result<TokenName> {
    format!("BOTTLE_ATTEST_KEY_{}", i + 1)
        .parse()
        .context(ErrorKind::Internal, || "an attesting key's name is none".into())
}

/// Reads the keys that attest pushes. A missing one ends the launch.
pub(crate) fn attest_keys(plan: &LaunchPlan) -> Result<Vec<(TokenName, Secret)>> {
    let keys = plan
        .git
        .iter()
        .enumerate()
        .filter_map(|(i, git)| Some((i, git, git.attest_key.as_deref()?)));
    let read = |(i, git, path): (usize, &GitSpec, &Path)| {
        let text = text(path).map_err(|why| {
            Error::new(ErrorKind::Config, format!("git upstream {}: attest_key {why}", git.name))
        })?;
        Ok((attest_name(i)?, Secret::new(text)))
    };
    keys.map(read).collect()
}

fn upstream(i: usize, git: &GitSpec) -> Result<GateUpstream> {
    let bad = |why: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Config, format!("git upstream {}: {why}", git.name))
    };
    let url = git.url.clone();
    let access = match (&git.identity_file, &git.token, &git.deploy_key) {
        (Some(path), ..) => {
            std::fs::File::open(path)
                .map_err(|e| bad(&format!("identity_file {}: {e}", path.display())))?;
            Access::IdentityFile(path.clone())
        }
        (None, Some((name, _)), _) => Access::Token(name.clone()),
        (None, None, Some(_)) => Access::Key(key_name(i)?),
        (None, None, None) => Access::None,
    };
    let known_hosts = match &git.known_hosts {
        Some(path) => Some(text(path).map_err(|why| bad(&format!("known_hosts {why}")))?),
        None if url.is_ssh() => {
            let hint = format!(
                "ssh-keyscan {} > known_hosts, compare the keys with those that its operator publishes, and say known_hosts = \"known_hosts\"",
                url.host()
            );
            return Err(bad(
                &"an ssh upstream needs known_hosts: the keys by which its host is known",
            )
            .hint(hint));
        }
        None => None,
    };
    let attest = git.attest_key.is_some().then(|| attest_name(i)).transpose()?;
    let ca = git
        .ca_file
        .as_deref()
        .map(text)
        .transpose()
        .map_err(|why| bad(&format!("ca_file {why}")))?;
    Ok(GateUpstream {
        name: git.name.clone(),
        url,
        access,
        known_hosts,
        ca,
        connect: None,
        attest,
        stale: git.stale,
        push: git.push.clone(),
    })
}

/// Reads a small text file of the operator's.
pub(crate) fn text(path: &Path) -> Result<String, String> {
    let text = read_small_text(path, MAX_KNOWN_HOSTS_BYTES);
    text.map(|mut text| std::mem::take(&mut *text)).map_err(|e| e.chain())
}
