//! The text that a matcher sees at once.

use std::borrow::Cow;

/// The end of a text, and the piece after it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) base: u64,
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl<'a> View<'a> {
    pub(crate) fn body_at(&self) -> u64 {
        self.base + self.head.len() as u64
    }

    pub(crate) fn end(&self) -> u64 {
        self.body_at() + self.body.len() as u64
    }

    #[allow(clippy::cast_possible_truncation)] // of a difference within the two slices
    pub(crate) fn byte(&self, at: u64) -> Option<u8> {
        let at = at.checked_sub(self.base)? as usize;
        self.head.get(at).or_else(|| self.body.get(at - self.head.len())).copied()
    }

    /// The bytes from `from` to `to`, split where the new piece begins.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn parts(&self, from: u64, to: u64) -> (&'a [u8], &'a [u8]) {
        let split = |at: u64| (at.saturating_sub(self.base) as usize).min(self.head.len());
        let body = |at: u64| (at.saturating_sub(self.body_at()) as usize).min(self.body.len());
        (
            self.head.get(split(from)..split(to)).unwrap_or_default(),
            self.body.get(body(from)..body(to)).unwrap_or_default(),
        )
    }

    pub(crate) fn slice(&self, from: u64, to: u64) -> Cow<'a, [u8]> {
        match self.parts(from, to) {
            (head, []) => Cow::Borrowed(head),
            ([], body) => Cow::Borrowed(body),
            (head, body) => Cow::Owned([head, body].concat()),
        }
    }
}
