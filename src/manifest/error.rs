//! What is wrong with a manifest, and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

/// A place in a manifest file. Line 0: the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file, as it was named to or found by the loader.
    pub file: Arc<Path>,
    /// Line, from 1; 0 when the error has no place inside the file.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Location {
    /// The file as a whole.
    #[must_use]
    pub fn whole(file: &Path) -> Self {
        Self { file: file.into(), line: 0, column: 0 }
    }

    /// Where the built-in agents and bottles are said to be.
    #[must_use]
    pub fn built_in() -> Self {
        Self::whole(Path::new("(built in)"))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&neutral(&self.file.to_string_lossy()))?;
        if self.line > 0 { write!(f, ":{}:{}", self.line, self.column) } else { Ok(()) }
    }
}

/// One thing that is wrong with a manifest, an agent file, or what they point at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestError {
    /// The file it is in.
    pub file: PathBuf,
    /// Line from 1; 0: the file as a whole.
    pub line: u32,
    /// Column in characters from 1; 0 with line 0.
    pub column: u32,
    /// Dotted path of the key (`bottles.dev.egress[0].host`), empty when there is none.
    pub key: String,
    /// What is wrong, one line.
    pub message: String,
    /// What to do about it, one line.
    pub hint: Option<String>,
}

impl ManifestError {
    pub(crate) fn new(
        at: &Location,
        key: impl Into<String>,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        Self {
            file: at.file.to_path_buf(),
            line: at.line,
            column: at.column,
            key: key.into(),
            message: message.into(),
            hint,
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at =
            Location { file: self.file.as_path().into(), line: self.line, column: self.column };
        write!(f, "{at}: {}", neutral(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {}", neutral(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ManifestError {}

/// Everything that is wrong, in the order of the files; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestErrors(pub Vec<ManifestError>);

impl From<ManifestError> for ManifestErrors {
    fn from(error: ManifestError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}

/// `text` made safe for a terminal; see [`bottle_policy::text::escape`].
#[must_use]
pub fn neutral(text: &str) -> String {
    bottle_policy::text::escape(text).into_owned()
}
