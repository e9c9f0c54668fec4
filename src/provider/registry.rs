//! The agents that this program knows. A new one is a file beside this one, its `mod` line, a row
//! of [`AGENTS`], and an image (nix/images).

use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::agent::{Agent, Provider};
use super::{claude, codex, command, demo};
use crate::values::{NameError, quote};

/// All agents, in the order of messages.
static AGENTS: &[&Agent] = &[
    &demo::AGENT,
    &command::AGENT,
    &claude::AGENT,
    &codex::AGENT,
    #[cfg(test)]
    &super::test_agent::AGENT,
];

impl Provider {
    /// All agents, in the order of messages.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        AGENTS.iter().copied().map(Self)
    }
}

impl FromStr for Provider {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::all()
            .find(|p| p.name == name)
            .ok_or_else(|| NameError(format!("no provider {}", quote(name))))
    }
}

impl<'de> Deserialize<'de> for Provider {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
