//! Object ids.

use std::fmt;

/// A SHA-1 object id: 40 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(String);

impl ObjectId {
    /// The id of no object. In a push it stands for a ref that does not exist.
    #[must_use]
    pub fn zero() -> Self {
        Self("0".repeat(40))
    }

    /// Whether this is [`ObjectId::zero`].
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }

    /// All 40 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, for messages.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// Reads exactly 40 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let ok = text.len() == 40
            && text.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
        if ok { String::from_utf8(text.to_vec()).ok().map(Self) } else { None }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
