//! The findings of a piece of text.

use crate::shared::Finding;

/// A finding, with the byte that decided it.
pub(crate) struct Match {
    /// The byte that decided.
    pub(crate) decided: u64,
    pub(crate) finding: Finding,
    /// What is overwritten if that is its action.
    pub(crate) masks: (u64, u64),
}

/// The findings of a piece of text, and the candidates that were decided in it.
#[derive(Default)]
pub(crate) struct Matches {
    pub(crate) events: Vec<Match>,
    /// Of each candidate that could have blocked: from where it was held, and the byte that
    /// decided.
    pub(crate) holds: Vec<(u64, u64)>,
}

impl Matches {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The findings, in the order in which a text that comes byte by byte decides them.
    pub(crate) fn sorted(mut self) -> (Vec<Match>, Vec<(u64, u64)>) {
        let key = |e: &Match| (e.decided, e.finding.offset, e.masks);
        self.events
            .sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.finding.rule.cmp(&b.finding.rule)));
        // A secret may be found in two forms at once; the first begins first, so it names all that
        // is to be overwritten.
        self.events.dedup_by(|b, a| {
            a.decided == b.decided
                && a.finding.secret.is_some()
                && a.finding.secret == b.finding.secret
        });
        (self.events, self.holds)
    }
}
