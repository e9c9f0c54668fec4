//! Messages between the orchestrator and its daemons: one JSON document a line, over the daemon's
//! standard input and output. They are never in a file and never in an argument.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::pattern::TokenName;
use crate::proposal::{Ask, ProposalStatus};
use crate::secret::Secret;
use crate::text::{MAX_TEXT_CHARS, UntrustedText};

/// The first line that an egress daemon reads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressInput {
    /// PEM of the bottle's CA certificate.
    pub ca_cert: String,
    /// PEM (PKCS#8) of the bottle's CA key.
    pub ca_key: Secret,
    /// Token values, by the names that the policy's routes use.
    pub tokens: BTreeMap<TokenName, Secret>,
    /// Tokens that the orchestrator can renew when the daemon sends [`EgressReport::Stale`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub refreshable: BTreeSet<TokenName>,
}

/// A later line to an egress daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum EgressCommand {
    /// A token has a new value, which counts from the next request on.
    Token {
        /// Name of the token.
        name: TokenName,
        /// The new value; `None` when it could not be renewed.
        value: Option<Secret>,
    },
}

/// A line from an egress daemon, after `ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum EgressReport {
    /// An upstream answered 401 to this token, which is one of [`EgressInput::refreshable`]. The
    /// orchestrator answers with [`EgressCommand::Token`].
    Stale {
        /// Name of the token.
        token: TokenName,
    },
    /// The policy file was replaced.
    Reload(ReloadReport),
}

/// A line from git-gate, after `ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum GateReport {
    /// The policy file was replaced.
    Reload(ReloadReport),
}

/// What a daemon did with another policy in its policy file. It reports nothing when the file has
/// the policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadReport {
    /// Digest of the file's policy; `None` when the file holds no policy.
    pub digest: Option<String>,
    /// Why the file's policy was refused, at most [`MAX_TEXT_CHARS`] characters; `None`: it is in
    /// force.
    pub error: Option<String>,
}

impl ReloadReport {
    /// The policy `digest` is in force now.
    #[must_use]
    pub fn in_force(digest: impl Into<String>) -> Self {
        Self { digest: Some(digest.into()), error: None }
    }

    /// The policy `digest` was refused. Cuts `why` short.
    #[must_use]
    pub fn refused(digest: Option<String>, why: &str) -> Self {
        Self { digest, error: Some(why.chars().take(MAX_TEXT_CHARS).collect()) }
    }
}

/// A line from the supervise daemon, after `ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SuperviseReport {
    /// The agent proposes a change. The orchestrator answers with [`SuperviseCommand::Filed`] and
    /// the same `call`.
    Draft {
        /// The daemon's own number for this call.
        call: u64,
        /// What the agent asks for.
        ask: Ask,
        /// The agent's reason.
        reason: UntrustedText,
    },
}

/// A line to the supervise daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SuperviseCommand {
    /// The answer to a draft.
    Filed {
        /// The draft's `call`.
        call: u64,
        /// The new proposal, or why it was not accepted.
        answer: Result<ProposalStatus, String>,
    },
    /// The state of a proposal has changed.
    Changed(ProposalStatus),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_is_one_line_of_less_than_4096_bytes() {
        let json = |report| serde_json::to_string(&EgressReport::Reload(report)).expect("JSON");
        assert_eq!(
            json(ReloadReport::in_force("12")),
            r#"{"reload":{"digest":"12","error":null}}"#
        );
        for worst in ["\u{1}", "\n", "\u{1f600}"] {
            let long = json(ReloadReport::refused(Some("f".repeat(64)), &worst.repeat(10_000)));
            assert!(long.len() < 4096 && !long.contains('\n'), "{}", long.len());
            let back: GateReport = serde_json::from_str(&long).expect("the same for git-gate");
            let GateReport::Reload(report) = back;
            assert!(report.error.is_some_and(|why| why.starts_with(worst)));
        }
    }
}
