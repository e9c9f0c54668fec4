//! Policies as JSON: errors that name the place, and digests.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Why a text is not a valid policy.
#[derive(Debug, thiserror::Error)]
#[error("line {line}, column {column}, key {key}: {why}")]
pub struct PolicyTextError {
    /// Line number, from 1.
    pub line: usize,
    /// Column number, from 1.
    pub column: usize,
    /// Path of the key, such as `routes[2].host`; `.` for the whole document.
    pub key: String,
    /// What is wrong there.
    pub why: String,
}

impl PolicyTextError {
    fn new(key: &str, e: &serde_json::Error) -> Self {
        let why = e.to_string();
        let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why).to_owned();
        Self { line: e.line(), column: e.column(), key: key.to_owned(), why }
    }
}

/// Reads the JSON text of a policy.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, PolicyTextError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|e| PolicyTextError::new(&e.path().to_string(), e.inner()))?;
    json.end().map_err(|e| PolicyTextError::new(".", &e))?;
    Ok(value)
}

/// SHA-256 (lower hex) of the JSON that serde writes for `policy`.
pub(crate) fn digest(policy: &impl Serialize) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(policy).unwrap_or_default()))
}

/// For `skip_serializing_if`: default values are not written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
