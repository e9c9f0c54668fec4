//! A place in a manifest's files, for error messages.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::text::neutral;

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

    /// The place of built-in agents and bottles.
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
