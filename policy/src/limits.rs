//! Limits of a route: scanning, budgets and rates.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::json::is_default;

/// What a finding of the scanner does to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nothing.
    Off,
    /// Write a line to the audit log.
    Warn,
    /// Overwrite the finding with `*`; where that is impossible (a compressed body), `Block`.
    Redact,
    /// Refuse the request, or cut it off before the finding has left.
    Block,
}

/// Scanning of one route. Secrets that the bundle itself holds are always searched for, and always
/// blocked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// Strongest action of any rule; absent: each rule's own. `warn` turns every block into an
    /// audit line, `off` switches the rules off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Action>,
    /// Actions of single rules, by rule id. They override `limit`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, Action>,
    /// Whether responses are searched for prompt injection.
    #[serde(default, skip_serializing_if = "is_default")]
    pub responses: bool,
}

/// Totals that a route may carry in one launch. Bytes up are those of request targets, headers and
/// bodies; bytes down are those of response bodies. An absent total is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Bytes to the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<u64>,
    /// Bytes from the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<u64>,
    /// Requests, whether or not they succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
}

/// Times after which a request is given up, seconds. An absent one is the daemon's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// From the last byte of the request to the first byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<u32>,
    /// Without a byte in an answer, tunnel or WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<u32>,
    /// From the first byte of the request to the last byte of its answer, or for a whole tunnel or
    /// WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u32>,
}

/// A number of requests per second, minute or hour, written `10/s`, `60/m` or `1000/h`. That many
/// may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// Requests in the period, 1 to 1,000,000.
    pub requests: u32,
    /// The period in seconds: 1, 60 or 3600.
    pub seconds: u32,
}

/// Why a text is not a rate.
#[derive(Debug, thiserror::Error)]
#[error("not a rate: {0:?} (requests per second, minute or hour, such as 10/s, 60/m or 1000/h)")]
pub struct RateError(String);

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (number, unit) = s.split_once('/')?;
            let requests =
                number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())??;
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            (1..=1_000_000).contains(&requests).then_some(Self { requests, seconds })
        };
        read().ok_or_else(|| RateError(s.to_owned()))
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = match self.seconds {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.requests)
    }
}

impl TryFrom<String> for Rate {
    type Error = RateError;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}
