//! Errors as the operator meets them: what failed, why, and the next command to type.
//!
//! An [`Error`] is in jj's shape: a kind (which is the exit code), a message, hints, and the cause.
//! `{error}` is the message alone and `{error:#}` is the message with its causes, as anyhow has it;
//! only the latter goes to an operator.

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure this is. The kind decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The operator said no, or could not be asked.
    Declined,
    /// The command line does not make sense.
    Usage,
    /// A manifest, an agent file or a state file is wrong.
    Config,
    /// No engine (or a part of one) can run here.
    Engine,
    /// The guest does not answer, or breaks the protocol.
    Guest,
    /// The bottle could reach what it must not, or could not prove otherwise.
    SelfTest,
    /// An audit log is broken or cannot be written.
    Audit,
    /// A bug, or the machine failed underneath.
    Internal,
    /// The host's file system or a socket of the host failed.
    Io,
    /// A signal ended the launch.
    Signal(i32),
}

impl ErrorKind {
    /// The process exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Declined => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::Engine | Self::Guest => 4,
            Self::SelfTest | Self::Audit => 5,
            Self::Internal => 70, // EX_SOFTWARE
            Self::Io => 74,       // EX_IOERR
            Self::Signal(n) => u8::try_from(128 + n).unwrap_or(u8::MAX),
        }
    }
}

/// A failure with its kind, its cause and hints.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hints: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of `kind`; `message` says what failed and why.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new(), source: None }
    }

    /// Adds the next thing to type or do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the hints of an error that this one is made of.
    #[must_use]
    pub fn hints_of(self, other: &Self) -> Self {
        other.hints().into_iter().fold(self, Self::hint)
    }

    /// An error of the same kind with this one as its cause.
    #[must_use]
    pub fn within(self, message: impl Into<String>) -> Self {
        let kind = self.kind;
        Self { source: Some(Box::new(self)), ..Self::new(kind, message) }
    }

    /// The kind, which decides the exit code.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Its own hints, then those of its causes.
    #[must_use]
    pub fn hints(&self) -> Vec<&str> {
        let mut all = Vec::new();
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = next {
            let ours = error.downcast_ref::<Self>();
            all.extend(ours.iter().flat_map(|e| &e.hints).map(String::as_str));
            next = error.source();
        }
        all
    }

    /// The first hint, when there is one.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hints().first().copied()
    }

    /// The message and its causes, separated by `: `.
    #[must_use]
    pub fn chain(&self) -> String {
        format!("{self:#}")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source().filter(|_| f.alternate());
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

/// A failure of the host's file system. `fs_err` puts the path into the message.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, error.to_string())
    }
}

/// Turns any failure into an [`Error`] with context.
pub trait Context<T> {
    /// `what` says what was being done; the failure becomes the cause, and its hints stay.
    ///
    /// # Errors
    /// The failure itself, with its kind and context.
    fn context(self, kind: ErrorKind, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: ErrorKind, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error { source: Some(cause.into()), ..Error::new(kind, what()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_the_cause_and_its_hints_and_the_chain_says_each_thing_once() {
        let io = std::io::Error::from(std::io::ErrorKind::NotFound);
        let inner = Err::<(), _>(io).context(ErrorKind::Io, || "cannot read a".into());
        let inner = inner.map_err(|e| e.hint("touch a"));
        let outer = inner.context(ErrorKind::Config, || "no plan".into()).unwrap_err().hint("plan");
        assert_eq!(outer.to_string(), "no plan");
        assert_eq!(outer.chain(), "no plan: cannot read a: entity not found");
        assert_eq!(outer.hints(), ["plan", "touch a"]);
        assert_eq!(outer.kind().exit_code(), 3);
        assert!(outer.source().is_some_and(|e| e.downcast_ref::<Error>().is_some()));
        let edge = anyhow::Error::from(outer);
        assert_eq!(format!("{edge:#}"), "no plan: cannot read a: entity not found");
        assert!(edge.downcast_ref::<Error>().is_some_and(|e| e.hint_text() == Some("plan")));
    }
}
