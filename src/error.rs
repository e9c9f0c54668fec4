//! Errors as the operator meets them: what failed, why, and the next command to type.

use std::fmt;

/// What kind of failure this is; each kind has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The operator said no, or an answer could not be had.
    Declined,
    /// The command line does not make sense.
    Usage,
    /// A manifest, an agent file or a state file is wrong.
    Config,
    /// No engine (or a part of one) can run here.
    Engine,
    /// The bottle could reach what it must not, or could not prove otherwise.
    SelfTest,
    /// A bug, or the machine failed underneath.
    Internal,
    /// A signal ended the launch.
    Signal(i32),
}

impl Kind {
    /// The process exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Declined => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::Engine => 4,
            Self::SelfTest => 5,
            Self::Internal => 70,
            Self::Signal(n) => u8::try_from(128 + n).unwrap_or(u8::MAX),
        }
    }
}

/// A failure with its kind, its cause and a hint.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of `kind`; `message` says what failed and why.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Adds the next thing to type or do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The kind, which decides the exit code.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The hint, when there is one.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Turns any failure into an [`Error`] with context.
pub trait Context<T> {
    /// `what` says what was being done; the cause is appended.
    ///
    /// # Errors
    /// The failure itself, with its kind and context.
    fn context(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::new(kind, format!("{}: {cause}", what())))
    }
}
