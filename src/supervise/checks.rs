//! What the desk checks, and where it could die.

/// What stands between an agent, or a hasty operator, and a policy that nobody wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// What is wide needs its name typed.
    Typed,
    /// An edit can only narrow.
    Narrow,
    /// The change is made to the policy that was shown.
    Shown,
    /// What is decided stays decided.
    Decided,
    /// What is over stays over.
    Expired,
    /// [`PENDING`].
    Pending,
    /// [`NEW`].
    Rate,
    /// The same ask again is the same proposal.
    Same,
    /// Another ask about the same takes the place of the one before.
    Replaced,
    /// [`STAYS_DENIED`].
    Denied,
    /// What is allowed already is not asked.
    Allowed,
    /// Beside a route that is passthrough there is none.
    Passthrough,
    /// Only what this bottle has can be changed.
    Known,
    /// Only this bottle's own documents are its queue.
    Own,
}

/// Between the steps of a decision, where a process can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is in the audit log, and not in the queue.
    Recorded,
    /// It is in the queue, and not in force.
    Decided,
    /// It is in force, and not in the manifest.
    InForce,
    /// It is all there, and the queue does not say so.
    Done,
}
