//! Finds credentials in streams: provider formats, and the secrets that a bundle holds, in any encoding.
//!
//! [`Scanner`] is compiled once a daemon; a [`Profile`] is what one route asks of it; a [`Stream`] is one body.

use std::sync::Arc;

use bottle_policy::{Action, Scan, Secret, TokenName};
use bytes::Bytes;

/// Rules and secrets, compiled.
#[derive(Debug)]
pub struct Scanner {}

/// What one route looks for, and what a find does.
#[derive(Debug, Clone)]
pub struct Profile {
    _scanner: Arc<Scanner>,
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the guest: credentials.
    Request,
    /// To the guest: the bundle's own secrets, and, where the route asks, text that tries to instruct the agent.
    Response,
}

/// A find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Id of the rule; `bundle-secret` for one of the bundle's own.
    pub rule: Arc<str>,
    /// What it does to its request.
    pub action: Action,
    /// Where it begins in the (decoded) text, bytes.
    pub offset: u64,
    /// The find with all but its first four bytes left out; nothing at all of a bundle's own secret.
    pub sample: String,
    /// Which of the bundle's own secrets it is.
    pub secret: Option<TokenName>,
}

/// A `scan` names a rule that there is none of.
#[derive(Debug, thiserror::Error)]
#[error("there is no scan rule {0:?}")]
pub struct UnknownRule(pub String);

/// A body coding that cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[error("content-encoding {0:?} cannot be scanned")]
pub struct UnknownCoding(pub String);

impl Scanner {
    /// Compiles the embedded rules and `secrets`.
    #[must_use]
    pub fn new(_secrets: &[(TokenName, Secret)]) -> Arc<Self> {
        Arc::new(Self {})
    }

    /// What `scan` asks for.
    ///
    /// # Errors
    /// A rule that does not exist.
    pub fn profile(self: &Arc<Self>, _scan: &Scan) -> Result<Profile, UnknownRule> {
        Ok(Profile { _scanner: Arc::clone(self) })
    }
}

impl Profile {
    /// Finds in a whole text, such as a header's value or a request target. Nothing is redacted here.
    #[must_use]
    pub fn text(&self, _direction: Direction, _text: &[u8]) -> Vec<Finding> {
        Vec::new()
    }

    /// Begins a body. `codings` is the value of its Content-Encoding, empty for none.
    ///
    /// # Errors
    /// A coding that cannot be looked into.
    pub fn stream(&self, _direction: Direction, _codings: &str) -> Result<Stream, UnknownCoding> {
        Ok(Stream {})
    }
}

/// One body on its way.
#[derive(Debug)]
pub struct Stream {}

impl Stream {
    /// Takes the next bytes of the body, as sent. What may go on is appended to `out`; what was found to `found`. After a
    /// finding with [`Action::Block`] nothing more comes out, and the request is to be broken off.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<Bytes>, _found: &mut Vec<Finding>) {
        out.push(chunk);
    }

    /// The body has ended: decides what was pending.
    pub fn finish(&mut self, _out: &mut Vec<Bytes>, _found: &mut Vec<Finding>) {}
}
