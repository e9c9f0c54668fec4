//! Digests of token values, to compare values without keeping them.

use sha2::{Digest as _, Sha256};

/// SHA-256 of a value.
pub(crate) type Digest = [u8; 32];

/// The digest of `value`.
pub(crate) fn digest(value: &str) -> Digest {
    Sha256::digest(value.as_bytes()).into()
}
