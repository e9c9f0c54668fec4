//! Refusals: a rule with a stable code and an HTTP status, a reason and a hint.

use http::StatusCode;

/// The rules of one daemon; [`rules!`] implements this for its table.
pub trait RefusalRule: Copy + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// The daemon's name in the text of a refusal.
    const REFUSED_BY: &'static str;
    /// The audit log cannot be written.
    const AUDIT: Self;
    /// The guest, or the daemon, ended before the request did.
    const ABORTED: Self;

    /// Stable name in audit lines and messages.
    fn code(self) -> &'static str;

    /// HTTP status of the refusal.
    fn status(self) -> StatusCode;

    /// True when policy decided; false when the network or the host failed.
    fn is_denial(self) -> bool;
}

/// Makes a table of rules: `Name = "code", STATUS;` under `denials`, which policy decides, and
/// under `failures`, which the network or the host causes. The failures must have `Audit` and
/// `Aborted`.
macro_rules! rules {
    (
        $(#[$enum_doc:meta])*
        pub enum Rule, refused by $daemon:literal;
        denials { $($(#[$denial_doc:meta])* $denial:ident = $denial_code:literal, $denial_status:literal;)* }
        failures { $($(#[$failure_doc:meta])* $failure:ident = $failure_code:literal, $failure_status:literal;)* }
    ) => {
        $(#[$enum_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rule {
            $($(#[$denial_doc])* $denial,)*
            $($(#[$failure_doc])* $failure,)*
        }

        impl Rule {
            /// Stable name in audit lines and messages.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$denial => $denial_code,)*
                    $(Self::$failure => $failure_code,)*
                }
            }

            /// HTTP status of the refusal.
            #[must_use]
            pub fn status(self) -> http::StatusCode {
                let status = match self {
                    $(Self::$denial => $denial_status,)*
                    $(Self::$failure => $failure_status,)*
                };
                // Every literal in the table is a valid status.
                http::StatusCode::from_u16(status)
                    .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// True when policy decided; false when the network or the host failed.
            #[must_use]
            pub fn is_denial(self) -> bool {
                matches!(self, $(Self::$denial)|*)
            }

            /// The rule with this code.
            #[must_use]
            pub fn from_code(code: &str) -> Option<Self> {
                match code {
                    $($denial_code => Some(Self::$denial),)*
                    $($failure_code => Some(Self::$failure),)*
                    _ => None,
                }
            }
        }

        impl $crate::daemon::refusal::RefusalRule for Rule {
            const REFUSED_BY: &'static str = $daemon;
            const AUDIT: Self = Self::Audit;
            const ABORTED: Self = Self::Aborted;

            fn code(self) -> &'static str {
                self.code()
            }

            fn status(self) -> http::StatusCode {
                self.status()
            }

            fn is_denial(self) -> bool {
                self.is_denial()
            }
        }
    };
}
pub(crate) use rules;

/// A rule that applied to one request. As an error it passes through the layers of hyper.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal<R: RefusalRule> {
    /// The rule.
    pub rule: R,
    /// One line for people. It may quote what the guest sent, never a secret.
    pub reason: String,
    /// One line that says what would make the request work.
    pub hint: Option<String>,
    /// What a search found, one line each.
    pub findings: Vec<String>,
}

impl<R: RefusalRule> Refusal<R> {
    /// A refusal without a hint.
    pub fn new(rule: R, reason: impl Into<String>) -> Self {
        Self { rule, reason: reason.into(), hint: None, findings: Vec::new() }
    }

    /// The refusal of a request that cannot be recorded.
    #[must_use]
    pub fn unrecorded() -> Self {
        Self::new(
            R::AUDIT,
            "the audit log takes no more lines (disk full, or this launch's budget spent), so \
             nothing is let through",
        )
    }

    /// The same refusal with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The reason and the rule's code, one line.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} [{}]", self.reason, self.rule.code())
    }

    /// Text of the response's body: the reason, then the hint.
    #[must_use]
    pub fn body(&self) -> String {
        let hint = self.hint.as_ref().map(|h| format!("hint: {h}\n")).unwrap_or_default();
        format!("{} refused this: {}\n{hint}", R::REFUSED_BY, self.line())
    }
}
