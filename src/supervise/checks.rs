//! The checks of the broker, and the places where tests make it die.

/// Checks against a policy that nobody wanted, asked for by an agent or approved in haste.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// A wide proposal needs its name typed.
    Typed,
    /// An edit can only narrow.
    Narrow,
    /// The change is made to the policy that was shown.
    Shown,
    /// A decision is final.
    Decided,
    /// An expired proposal cannot be approved.
    Expired,
    /// At most `MAX_PENDING` proposals wait.
    Pending,
    /// At most `MAX_NEW_PER_PERIOD` proposals are made in a period.
    Rate,
    /// Asking again for the same returns the pending proposal.
    Same,
    /// A proposal about the same host replaces the pending one.
    Replaced,
    /// What was denied cannot be asked for again during `STAYS_DENIED`.
    Denied,
    /// What the policy allows is not proposed.
    Allowed,
    /// No route can be added for a host with a passthrough route.
    Passthrough,
    /// Choices of a question cannot be confused.
    Choices,
    /// Only upstreams of this bottle can be changed.
    Known,
    /// Only this bottle's own documents are read into its queue.
    Own,
}

/// Places between the steps of a decision where tests make the process die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// In the audit log, not yet in the queue.
    Recorded,
    /// In the queue, not yet in force.
    Decided,
    /// In force, not yet in the manifest.
    InForce,
    /// All done, not yet recorded in the queue.
    Done,
}
