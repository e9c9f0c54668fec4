//! Requests to a forge (a host of repositories): deploy keys that live as long as a bottle.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// A forge's kind, which decides its API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forge {
    /// GitHub, including GitHub Enterprise.
    GitHub,
    /// Gitea and Forgejo.
    Gitea,
    /// GitLab.
    GitLab,
}

impl Forge {
    /// All forges, with the names that a manifest uses.
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

    /// Base URL of the API of a forge at `host`.
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

/// Standard input of `bottle-bundle forge`: one JSON document. It is never in a file and never in
/// an argument.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgeRequest {
    /// Kind of the forge.
    pub forge: Forge,
    /// Base URL of its API, `https://…` without a slash at the end.
    pub api: String,
    /// PEM of CAs that may sign its certificate, in addition to the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Token that may manage the repository's deploy keys.
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
    /// Add the key to the repository.
    Register {
        /// Title of the key on the forge's web pages.
        title: String,
        /// `ssh-ed25519 AAAA…`.
        public_key: String,
        /// Whether the key may push.
        write: bool,
    },
    /// Remove the key. A key that is not there is not an error.
    Revoke {
        /// As registered.
        public_key: String,
    },
}
