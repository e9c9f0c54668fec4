//! The checks of the MCP endpoint. Most of what must not be asked for needs no check, because the
//! types of the arguments have no place for it.

use crate::daemon::checks;

/// The checks that are enabled.
pub type Checks = checks::Checks<Check>;

/// A check that a test can disable, to prove that what it stops is real.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The server is only at `/` and `/mcp`.
    Path,
    /// The Host header names this server.
    Host,
    /// The Origin header, if there is one, names this server.
    Origin,
    /// Largest body.
    BodySize,
    /// Most items of a list.
    ListLength,
    /// There is a reason, and it is not too long.
    Reason,
    /// Longest line to the orchestrator.
    LineLength,
    /// Most calls that wait for a decision.
    Waiting,
}
