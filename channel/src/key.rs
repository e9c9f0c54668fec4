//! The key of a launch, which both ends of a channel must prove.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 random bytes, made for one launch and wiped on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; Key::LEN]);

impl Key {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Takes over `bytes`; the caller wipes its copy.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// A fresh key from the kernel's random source.
    ///
    /// # Errors
    /// When that source fails.
    pub fn random() -> std::io::Result<Self> {
        let mut key = Self([0; Self::LEN]);
        getrandom::fill(&mut key.0).map_err(|e| std::io::Error::other(e.to_string()))?;
        Ok(key)
    }

    /// The bytes. Only the engine and the MAC need them.
    #[must_use]
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}
