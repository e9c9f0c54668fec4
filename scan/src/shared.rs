//! What the modules of this crate share.

use std::sync::Arc;

use bottle_policy::{Action, TokenName};

/// Bytes of a gram: what a keyword or a secret is found by.
pub(crate) const GRAM: usize = 4;

/// How the bytes of a candidate are written, apart from escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Encoding {
    /// As they are.
    Plain,
    /// Base64 of either alphabet; so many bytes of the first group come before the candidate.
    Base64 { before: u8 },
    /// Hex digits of either case.
    Hex,
}

/// Where a text has a candidate.
pub(crate) struct Place {
    /// Where it begins, bytes.
    pub(crate) start: u64,
    /// The byte that shows that it may begin there.
    pub(crate) known: u64,
    pub(crate) encoding: Encoding,
    /// Whether its first bytes are escaped.
    pub(crate) escaped: bool,
    /// Whether tag characters stand for ASCII.
    pub(crate) tags: bool,
}

/// A way in which rules see what is not written as it is. Tests switch one off at a time, to prove
/// that a token gets past without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Escapes, invisible characters and look-alikes.
    Escapes,
    /// Base64 and hex.
    Encodings,
    /// Values that are cut over neighbouring fields.
    Fields,
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the guest: credentials.
    Request,
    /// To the guest: the bundle's own secrets, and, where the route asks, text that tries to
    /// instruct the agent.
    Response,
}

/// A find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Id of the rule; `bundle-secret` for one of the bundle's own, `coding` for a body that cannot
    /// be decoded, and `coding-bomb` for one that grows too much.
    pub rule: Arc<str>,
    /// What it does to its request.
    pub action: Action,
    /// Where it begins in the (decoded) text, bytes.
    pub offset: u64,
    /// The find with all but its first four bytes left out; nothing at all of a bundle's own
    /// secret.
    pub sample: String,
    /// Which of the bundle's own secrets it is.
    pub secret: Option<TokenName>,
    /// Whether only what stands around it makes it a credential, as with a random value that is
    /// given to a `password`. Ordinary code has such values, too.
    pub suspected: bool,
}

/// A `scan` names a rule that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("there is no scan rule {0:?}")]
pub struct UnknownRule(pub String);

/// A body coding that cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[error("content-encoding {0:?} cannot be scanned")]
pub struct UnknownCoding(pub String);

impl Finding {
    pub(crate) fn of_coding(rule: &Arc<str>, offset: u64) -> Self {
        Self {
            rule: Arc::clone(rule),
            action: Action::Block,
            offset,
            sample: String::new(),
            secret: None,
            suspected: false,
        }
    }
}
