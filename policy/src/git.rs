//! The policy of a git-gate: repositories that an agent may use, and what it may push to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::git_url::GateUrl;
use crate::json::{self, PolicyTextError, is_default};
use crate::pattern::TokenName;
use crate::ref_pattern::{EmailPattern, RefPattern};
use crate::secret::Secret;
use crate::string_type::{GateTextError, string_type};

string_type!(UpstreamName: GateTextError, Fingerprint: GateTextError);

/// What a git-gate enforces. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatePolicy {
    /// Format version, 1.
    pub version: u32,
    /// Name of the agent, `{agent}` in patterns.
    pub agent: String,
    /// Name of the bottle, `{slug}` in patterns.
    pub slug: String,
    /// Upstream repositories. To the agent, no others exist.
    pub upstreams: Vec<GateUpstream>,
}

impl GatePolicy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// One line that names line, column and key.
    pub fn from_json(text: &[u8]) -> Result<Self, PolicyTextError> {
        json::read(text)
    }

    /// SHA-256 (lower hex) of the policy's JSON.
    #[must_use]
    pub fn digest(&self) -> String {
        json::digest(self)
    }

    /// Describes the first change from `self` to `other` that needs a restart, in one line. Only
    /// push rules and `stale` can change while the daemon runs; `None` if nothing else changed.
    #[must_use]
    pub fn not_reloadable(&self, other: &Self) -> Option<String> {
        let fixed = |p: &Self| {
            let mut p = p.clone();
            for u in &mut p.upstreams {
                (u.push, u.stale) = (None, Stale::default());
            }
            p
        };
        let (before, after) = (fixed(self), fixed(other));
        if before == after {
            return None;
        }
        let changed = before
            .upstreams
            .iter()
            .chain(&after.upstreams)
            .find(|u| !before.upstreams.contains(u) || !after.upstreams.contains(u));
        Some(changed.map_or_else(
            || "more than upstreams changed".to_owned(),
            |u| format!("upstream {} changed, not only its rules", u.name),
        ))
    }
}

/// One upstream repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateUpstream {
    /// Unique name. The gate serves the repository at `/NAME.git`.
    pub name: UpstreamName,
    /// URL of the upstream.
    pub url: GateUrl,
    /// How the gate authenticates to the upstream.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access: Access,
    /// Host keys of an ssh upstream, in the format of `known_hosts`; required for ssh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts: Option<String>,
    /// PEM of the CAs that may sign an https upstream's certificate; absent: the host's CAs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Connect here instead of resolving the host. The host key or certificate must still be the
    /// host's. For https the port must be the URL's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<SocketAddr>,
    /// What a fetch gets while the upstream cannot be reached.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stale: Stale,
    /// The ssh private key (as in [`Access::Key`]) that signs a note on each pushed branch; absent:
    /// no notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attest: Option<TokenName>,
    /// What may be pushed; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
}

/// How the gate authenticates to an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Access {
    /// It does not.
    #[default]
    None,
    /// With an ssh private key in a file of the host.
    IdentityFile(PathBuf),
    /// With an ssh private key (ed25519; OpenSSH or PKCS#8 PEM) from [`GateInput::tokens`].
    Key(TokenName),
    /// With an https token from [`GateInput::tokens`]: `user:password`, or a password alone.
    Token(TokenName),
}

/// What a fetch gets while the upstream cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stale {
    /// An error.
    #[default]
    Refuse,
    /// The state that the last fetch saw.
    Allow,
}

/// What may be pushed to an upstream. [`RefPattern`] describes the patterns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// Branches that may be created and moved forward.
    pub branches: Vec<RefPattern>,
    /// Branches that may not be pushed even if `branches` matches them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protected: Vec<RefPattern>,
    /// Tags that may be created. A tag is never moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<RefPattern>,
    /// Maximum size of a pack in bytes.
    #[serde(default = "max_pack")]
    pub max_pack: u64,
    /// Maximum size of an object in bytes.
    #[serde(default = "max_blob")]
    pub max_blob: u64,
    /// Maximum number of objects in a pack, and of new objects.
    #[serde(default = "max_objects")]
    pub max_objects: u32,
    /// E-mail addresses that authors of new commits may have; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<EmailPattern>,
    /// The same for committers and taggers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub committers: Vec<EmailPattern>,
    /// Findings that the operator has reviewed and allows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow: BTreeSet<Fingerprint>,
}

impl Push {
    /// Allows these branches, with the default limits.
    #[must_use]
    pub fn to(branches: Vec<RefPattern>) -> Self {
        Self {
            branches,
            protected: Vec::new(),
            tags: Vec::new(),
            max_pack: max_pack(),
            max_blob: max_blob(),
            max_objects: max_objects(),
            authors: Vec::new(),
            committers: Vec::new(),
            allow: BTreeSet::new(),
        }
    }
}

fn max_pack() -> u64 {
    256 << 20
}

fn max_blob() -> u64 {
    64 << 20
}

fn max_objects() -> u32 {
    200_000
}

/// The first line of a git-gate's standard input. It is never in a file and never in an argument.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateInput {
    /// Keys and tokens, by the names that [`Access`] uses. Pushes are searched for them, too.
    #[serde(default)]
    pub tokens: BTreeMap<TokenName, Secret>,
    /// Every other secret that the bundle holds. The gate does not use them; it searches pushes for
    /// them.
    #[serde(default)]
    pub secrets: BTreeMap<TokenName, Secret>,
}

/// A name that can be a directory and a segment of a URL: letters, digits and `-_.`, not starting
/// with `.` or `-`, not ending in `.git`, at most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpstreamName(String);

impl FromStr for UpstreamName {
    type Err = GateTextError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = (1..=64).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !s.starts_with(['.', '-'])
            && !s.ends_with('.')
            && !s.contains("..")
            && !s.to_ascii_lowercase().ends_with(".git");
        let bad = || GateTextError {
            what: "an upstream's name",
            text: s.to_owned(),
            form: "letters, digits, -_., without .git",
        };
        ok.then(|| Self(s.to_owned())).ok_or_else(bad)
    }
}

/// Identity of a finding: 16 hex digits of SHA-256 over the rule and the text that was found. It
/// does not change when the file is moved or the commit rewritten.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of `found`, found by `rule`.
    #[must_use]
    pub fn of(rule: &str, found: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"bot-bottle finding 1\0");
        hash.update(rule.as_bytes());
        hash.update(b"\0");
        hash.update(found);
        Self(hex::encode(&hash.finalize()[..8]))
    }
}

impl FromStr for Fingerprint {
    type Err = GateTextError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok =
            s.len() == 16 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let bad = || GateTextError {
            what: "a fingerprint",
            text: s.to_owned(),
            form: "the 16 hex digits that a refusal names",
        };
        ok.then(|| Self(s.to_owned())).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_can_be_reloaded() {
        let text = r#"{"version":1,"agent":"a","slug":"s","upstreams":[{"name":"x","url":"https://h.test/x","push":{"branches":["b"]}}]}"#;
        let policy = GatePolicy::from_json(text.as_bytes()).expect("policy");
        let other = |from: &str, to: &str| {
            policy.not_reloadable(
                &GatePolicy::from_json(text.replace(from, to).as_bytes()).expect("policy"),
            )
        };
        assert_eq!(other("[\"b\"]", "[\"c\"]"), None);
        assert_eq!(other(",\"push\":{\"branches\":[\"b\"]}", ",\"stale\":\"allow\""), None);
        for (from, to) in [
            ("h.test", "evil.test"),
            ("\"x\"", "\"y\""),
            ("\"s\"", "\"t\""),
            (",\"push\"", ",\"connect\":\"127.0.0.1:1\",\"push\""),
        ] {
            assert!(other(from, to).is_some(), "{to}");
        }
        let more = GatePolicy {
            upstreams: [policy.upstreams.clone(), policy.upstreams.clone()].concat(),
            ..policy.clone()
        };
        assert!(policy.not_reloadable(&more).is_some());
    }

    #[test]
    fn a_policy_is_read_and_its_faults_are_named() {
        let text = r#"{"version":1,"agent":"a","slug":"s","upstreams":[{"name":"x","url":"git@h.test:x","access":{"key":"K"},
            "known_hosts":"h.test ssh-ed25519 AAAA","push":{"branches":["{agent}/*"],"allow":["0123456789abcdef"]}}]}"#;
        let policy = GatePolicy::from_json(text.as_bytes()).expect("policy");
        assert_eq!(
            GatePolicy::from_json(&serde_json::to_vec(&policy).expect("text")).expect("again"),
            policy
        );
        for (from, to, want) in [
            ("\"x\",\"url\"", "\"../x\",\"url\"", "key upstreams[0].name: not an upstream's name"),
            ("git@h.test:x", "file:///x", "key upstreams[0].url: not a git URL"),
            ("branches", "branchs", "upstreams[0].push.branchs: unknown field"),
            ("0123456789abcdef", "xyz", "not a fingerprint"),
        ] {
            let e = GatePolicy::from_json(text.replace(from, to).as_bytes())
                .expect_err(want)
                .to_string();
            assert!(e.contains(want), "{e}");
        }
    }
}
