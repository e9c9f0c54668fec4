//! Repositories that an agent may use through git-gate, and what it may push to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::route::PolicyTextError;
use crate::{HostPattern, PathPattern, Secret, TokenName};

/// What a git-gate enforces. No secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatePolicy {
    /// Format version, 1.
    pub version: u32,
    /// Name of the agent: `{agent}` in patterns.
    pub agent: String,
    /// Name of the bottle: `{slug}` in patterns.
    pub slug: String,
    /// Upstreams; what is none of them does not exist.
    pub upstreams: Vec<GateUpstream>,
}

impl GatePolicy {
    /// Reads a policy file's text.
    ///
    /// # Errors
    /// One line that names line, column and key.
    pub fn from_json(text: &[u8]) -> Result<Self, PolicyTextError> {
        PolicyTextError::read(text)
    }

    /// SHA-256 (lower hex) of the canonical JSON.
    #[must_use]
    pub fn digest(&self) -> String {
        use sha2::{Digest, Sha256};
        hex::encode(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }

    /// What of `other` cannot come into force in the place of this one while the daemon runs: all
    /// but what each upstream lets be pushed, and what it says of stale mirrors. One line, `None`
    /// when there is nothing.
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
    /// Name, unique: the gate serves it at `/NAME.git`.
    pub name: UpstreamName,
    /// The upstream's own URL.
    pub url: GateUrl,
    /// How the gate proves itself to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access: Access,
    /// Host keys of an ssh upstream, lines as in `known_hosts`; required for ssh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts: Option<String>,
    /// PEM of the CAs that an https upstream must be signed by; absent: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Connect here instead of resolving the host; the host key or certificate is still the host's.
    /// For https the port must be the URL's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<SocketAddr>,
    /// What a fetch gets while the upstream cannot be reached.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stale: Stale,
    /// ssh private key (as [`Access::Key`]) with which a note on each pushed branch is signed;
    /// absent: no notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attest: Option<TokenName>,
    /// What may be pushed; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
}

/// How the gate proves itself to an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Access {
    /// Not at all.
    #[default]
    None,
    /// By an ssh private key in a file of the host.
    IdentityFile(PathBuf),
    /// By an ssh private key (ed25519, OpenSSH or PKCS#8 PEM) that is one of [`GateInput::tokens`].
    Key(TokenName),
    /// By an https token that is one of [`GateInput::tokens`]: `user:password`, or a password
    /// alone.
    Token(TokenName),
}

/// What a fetch gets while the upstream cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stale {
    /// An error.
    #[default]
    Refuse,
    /// What the last fetch saw.
    Allow,
}

/// What may be pushed. In patterns `*` stands for anything in one segment, as the last segment for
/// everything below, and `**` for any number of segments; `{agent}` and `{slug}` for their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// Branches (without `refs/heads/`) that may be made and moved forward.
    pub branches: Vec<RefPattern>,
    /// Branches that may not, even if `branches` says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protected: Vec<RefPattern>,
    /// Tags (without `refs/tags/`) that may be made; they are never moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<RefPattern>,
    /// Largest pack, bytes.
    #[serde(default = "max_pack")]
    pub max_pack: u64,
    /// Largest object, bytes.
    #[serde(default = "max_blob")]
    pub max_blob: u64,
    /// Most objects in a pack, and most new ones.
    #[serde(default = "max_objects")]
    pub max_objects: u32,
    /// E-mail addresses that authors of new commits may have (`*` for anything); empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<EmailPattern>,
    /// The same for committers, and taggers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub committers: Vec<EmailPattern>,
    /// Findings that the operator has looked at and allows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow: BTreeSet<Fingerprint>,
}

impl Push {
    /// These branches, and the usual limits.
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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a git-gate reads as the first line of its standard input; never a file, never argv.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateInput {
    /// Keys and tokens by the names that [`Access`] uses. They are looked for in what is pushed,
    /// too.
    #[serde(default)]
    pub tokens: BTreeMap<TokenName, Secret>,
    /// Every other secret that the bundle holds: looked for, never used.
    #[serde(default)]
    pub secrets: BTreeMap<TokenName, Secret>,
}

/// A name that can be a directory and a segment of a URL: letters, digits, `-_.`, not starting with
/// `.` or `-`, at most 64, and not ending in `.git`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpstreamName(String);

/// Why a text is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("not {what}: {text:?} ({form})")]
pub struct GateTextError {
    what: &'static str,
    text: String,
    form: &'static str,
}

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

/// A repository's URL: `ssh://[user@]host[:port]/path`, `user@host:path` or
/// `https://host[:port]/path`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GateUrl {
    text: String,
    ssh: bool,
    user: Option<String>,
    host: String,
    port: Option<u16>,
    path: String,
}

impl GateUrl {
    /// The URL as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether git uses ssh for it.
    #[must_use]
    pub fn is_ssh(&self) -> bool {
        self.ssh
    }

    /// The host, lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the scheme's own when none is written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.ssh { 22 } else { 443 })
    }

    /// The repository on its host, without slashes around it and without `.git`.
    #[must_use]
    pub fn repo(&self) -> &str {
        let path = self.path.trim_matches('/');
        path.strip_suffix(".git").unwrap_or(path)
    }

    /// Every spelling that a clone or a submodule may have for this repository: each is an
    /// `insteadOf` of the gate's `http://127.0.0.1:9420/NAME.git` (git takes the longest that
    /// fits).
    #[must_use]
    pub fn spellings(&self) -> Vec<String> {
        let bare = self.repo();
        let user = self.user.as_deref().unwrap_or("git");
        let mut all = Vec::new();
        for path in [format!("{bare}.git"), bare.to_owned()] {
            let host = &self.host;
            match self.port {
                Some(port) if self.ssh => {
                    all.push(format!("ssh://{user}@{host}:{port}/{path}"));
                    all.push(format!("ssh://{host}:{port}/{path}"));
                }
                Some(port) => all.push(format!("https://{host}:{port}/{path}")),
                None => {
                    all.push(format!("https://{host}/{path}"));
                    all.push(format!("http://{host}/{path}"));
                    all.push(format!("git://{host}/{path}"));
                    all.push(format!("ssh://{user}@{host}/{path}"));
                    all.push(format!("ssh://{user}@{host}:22/{path}"));
                    all.push(format!("ssh://{host}/{path}"));
                    all.push(format!("{user}@{host}:{path}"));
                    all.push(format!("{user}@{host}:/{path}"));
                }
            }
        }
        all
    }
}

impl FromStr for GateUrl {
    type Err = GateTextError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let form = "such as git@host:me/x.git, ssh://git@host/me/x.git or https://host/me/x.git, without a password";
        let bad = || {
            // Whatever stands before the @ may be a password.
            let shown =
                s.rsplit_once('@').map_or_else(|| s.to_owned(), |(_, rest)| format!("…@{rest}"));
            GateTextError { what: "a git URL", text: shown, form }
        };
        let graphic = s.bytes().all(|b| b.is_ascii_graphic() && !b"\\\"'`$".contains(&b));
        if s.len() > 2048 || s.starts_with('-') || !graphic {
            return Err(bad());
        }
        let (ssh, authority, path) = if let Some(rest) = s.strip_prefix("https://") {
            rest.split_once('/').map(|(a, p)| (false, a, p))
        } else if let Some(rest) = s.strip_prefix("ssh://") {
            rest.split_once('/').map(|(a, p)| (true, a, p))
        } else if s.contains("://") || s.contains("::") {
            None
        } else {
            s.split_once(':')
                .filter(|(a, _)| a.contains('@') && !a.contains('/'))
                .map(|(a, p)| (true, a, p))
        }
        .ok_or_else(bad)?;
        let (user, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let user_ok = user.is_none_or(|u| {
            ssh && !u.is_empty()
                && !u.starts_with('-')
                && u.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => {
                (host, Some(port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(bad)?))
            }
            _ => (host, None),
        };
        let host_ok = !host.contains('*') && host.parse::<HostPattern>().is_ok();
        let path_ok = !path.trim_matches('/').is_empty()
            && !path.starts_with('-')
            && !path.contains(['?', '#', '~'])
            && !path.split('/').any(|segment| segment == "..");
        if !(user_ok && host_ok && path_ok) {
            return Err(bad());
        }
        let (user, host, path) =
            (user.map(ToOwned::to_owned), host.to_ascii_lowercase(), path.to_owned());
        Ok(Self { text: s.to_owned(), ssh, user, host, port, path })
    }
}

/// Branch or tag names, see [`Push`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefPattern(String);

impl RefPattern {
    /// The pattern with the names put in.
    ///
    /// # Errors
    /// A name that makes it no pattern.
    pub fn of(&self, agent: &str, slug: &str) -> Result<PathPattern, GateTextError> {
        let text = self.0.replace("{agent}", agent).replace("{slug}", slug);
        format!("/{text}").parse().map_err(|_| GateTextError {
            what: "a pattern of refs",
            text,
            form: PATTERN,
        })
    }
}

const PATTERN: &str = "such as main, agent/*, {agent}/{slug}/**";

impl FromStr for RefPattern {
    type Err = GateTextError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let this = Self(s.to_owned());
        let whole = !s.is_empty()
            && !s.ends_with(['/', '.'])
            && !s.starts_with("refs/")
            && !s.contains("..");
        let bad = || GateTextError { what: "a pattern of refs", text: s.to_owned(), form: PATTERN };
        if whole
            && this.of("a", "b").is_ok()
            && !this.0.replace("{agent}", "").replace("{slug}", "").contains(['{', '}'])
        {
            Ok(this)
        } else {
            Err(bad())
        }
    }
}

/// An e-mail address in which `*` stands for anything. Case does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailPattern(String);

impl EmailPattern {
    /// Whether `email` is meant.
    #[must_use]
    pub fn matches(&self, email: &str) -> bool {
        let email = email.to_ascii_lowercase();
        let mut pieces = self.0.split('*');
        let Some(mut rest) = email.strip_prefix(pieces.next().unwrap_or_default()) else {
            return false;
        };
        let mut pieces = pieces.peekable();
        if pieces.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                return rest.ends_with(piece);
            }
            let Some(at) = rest.find(piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
        true
    }
}

impl FromStr for EmailPattern {
    type Err = GateTextError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = (1..=254).contains(&s.len())
            && s.chars().all(|c| !c.is_control() && !c.is_whitespace() && !"<>".contains(c));
        let bad = || GateTextError {
            what: "an e-mail pattern",
            text: s.to_owned(),
            form: "such as me@example.com or *@example.com",
        };
        ok.then(|| Self(s.to_ascii_lowercase())).ok_or_else(bad)
    }
}

/// A finding's identity: 16 hex digits of SHA-256 over rule and what was found. It stays when the
/// file is moved or the commit rewritten, and changes with what was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Of `found` by `rule`.
    #[must_use]
    pub fn of(rule: &str, found: &[u8]) -> Self {
        use sha2::{Digest, Sha256};
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

impl fmt::Display for GateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<GateUrl> for String {
    fn from(url: GateUrl) -> Self {
        url.text
    }
}

impl TryFrom<String> for GateUrl {
    type Error = GateTextError;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

macro_rules! text {
    ($($t:ty),*) => {$(
        impl TryFrom<String> for $t {
            type Error = GateTextError;
            fn try_from(s: String) -> Result<Self, Self::Error> { s.parse() }
        }
        impl From<$t> for String {
            fn from(v: $t) -> Self { v.0 }
        }
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    )*};
}
text!(UpstreamName, RefPattern, EmailPattern, Fingerprint);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_what_git_would_take_them_for() {
        for (text, ssh, host, port) in [
            ("git@Host.test:me/x.git", true, "host.test", 22),
            ("ssh://git@host.test:2222/me/x.git", true, "host.test", 2222),
            ("ssh://host.test/me/x", true, "host.test", 22),
            ("https://host.test/me/x.git", false, "host.test", 443),
            ("https://host.test:8443/x", false, "host.test", 8443),
        ] {
            let url: GateUrl = text.parse().expect(text);
            assert_eq!((url.is_ssh(), url.host(), url.port()), (ssh, host, port), "{text}");
        }
        for bad in [
            "",
            "x",
            "/srv/x.git",
            "file:///srv/x",
            "ext::sh -c x",
            "http://h.test/x",
            "https://u:p@h.test/x",
            "https://u@h.test/x",
            "ssh://-oProxyCommand=x/y",
            "ssh://-o@h.test/x",
            "git@-oX:me/x",
            "git@h.test:-x",
            "https://h.test/../x",
            "https://h.test/",
            "ssh://h.test:0/x",
            "ssh://h.test:99999/x",
            "git@h.test:me/x y",
            "ssh://h.test/$(x)",
            "ssh://h.test/~me/x",
            "a::b@c:d",
        ] {
            assert!(bad.parse::<GateUrl>().is_err(), "{bad}");
        }
        let shown =
            "https://user:hunter2@h.test/x".parse::<GateUrl>().expect_err("a password").to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_repository_has_all_its_spellings() {
        let url: GateUrl = "git@github.test:me/x.git".parse().expect("url");
        let all = url.spellings();
        for want in [
            "https://github.test/me/x",
            "https://github.test/me/x.git",
            "ssh://git@github.test/me/x.git",
            "git@github.test:me/x",
        ] {
            assert!(all.iter().any(|s| s == want), "{want} in {all:?}");
        }
        let url: GateUrl = "ssh://git@h.test:2222/x.git".parse().expect("url");
        assert_eq!(url.spellings()[0], "ssh://git@h.test:2222/x.git");
    }

    #[test]
    fn patterns_match_what_they_say() {
        let p: RefPattern = "{agent}/{slug}/*".parse().expect("pattern");
        let p = p.of("claude", "b1").expect("names");
        assert!(
            p.matches("/claude/b1/x") && p.matches("/claude/b1/x/y") && !p.matches("/claude/b2/x")
        );
        for bad in
            ["", "a/", "/a", "refs/heads/x", "a//b", "a/../b", "a..b", "a.", "{other}/x", "a b"]
        {
            assert!(bad.parse::<RefPattern>().is_err(), "{bad}");
        }
        let of = |p: &str| p.parse::<EmailPattern>().expect("pattern");
        assert!(
            of("*@Example.com").matches("a@EXAMPLE.com")
                && !of("*@example.com").matches("a@example.com.evil")
        );
        assert!(
            of("a*b*c").matches("a1b2c")
                && !of("a*b*c").matches("ac")
                && of("a@b").matches("a@b")
                && !of("a@b").matches("a@bc")
        );
        assert!(!of("ab*ba").matches("aba"), "pieces do not overlap");
    }

    #[test]
    fn rules_can_be_reloaded_and_nothing_else() {
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
