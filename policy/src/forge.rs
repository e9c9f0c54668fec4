//! What is asked of a forge (a host of repositories) on behalf of a bottle: deploy keys that live
//! as long as it does.

use serde::{Deserialize, Serialize};

use crate::Secret;

/// Whose API it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forge {
    /// GitHub, Enterprise too.
    GitHub,
    /// Gitea and Forgejo.
    Gitea,
    /// GitLab.
    GitLab,
}

impl Forge {
    /// All of them, by the names that a manifest uses.
    pub const ALL: [(&'static str, Self); 3] =
        [("github", Self::GitHub), ("gitea", Self::Gitea), ("gitlab", Self::GitLab)];

    /// The name that a manifest uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GitHub => "github",
            Self::Gitea => "gitea",
            Self::GitLab => "gitlab",
        }
    }

    /// Where the API is on a forge at `host`.
    #[must_use]
    pub fn api(self, host: &str) -> String {
        match self {
            Self::GitHub if host == "github.com" => "https://api.github.com".to_owned(),
            Self::GitHub => format!("https://{host}/api/v3"),
            Self::Gitea => format!("https://{host}/api/v1"),
            Self::GitLab => format!("https://{host}/api/v4"),
        }
    }
}

/// What `bottle-bundle forge` reads from its standard input, one JSON document; never a file, never
/// argv.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgeRequest {
    /// Whose API.
    pub forge: Forge,
    /// Its base, `https://…` without a slash at the end.
    pub api: String,
    /// PEM of the CAs that it must be signed by, beside the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Token that may manage the repository's keys.
    pub token: Secret,
    /// `owner/name`.
    pub repo: String,
    /// What to do.
    pub deploy_key: DeployKeyAction,
}

/// What to do with a deploy key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action", deny_unknown_fields)]
pub enum DeployKeyAction {
    /// Let a key in.
    Register {
        /// What people see of it.
        title: String,
        /// `ssh-ed25519 AAAA…`.
        public_key: String,
        /// Whether it may push.
        write: bool,
    },
    /// Lock it out; a key that is not there is no error.
    Revoke {
        /// As registered.
        public_key: String,
    },
}
