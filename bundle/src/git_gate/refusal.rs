//! Every reason for which a request or a push is refused or fails, with its stable code and its HTTP
//! status.

use http::StatusCode;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal;)*) => {
        /// Why a request or a push was refused or failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rule { $($(#[$doc])* $name,)* }

        impl Rule {
            /// The stable code in audit lines and messages.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// HTTP status, used when the request itself is refused and not a ref of a push.
            #[must_use]
            pub fn status(self) -> StatusCode {
                // Every literal below is a valid status.
                StatusCode::from_u16(match self { $(Self::$name => $status,)* }).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    };
}

rules! {
    /// The path names no repository, or can be read in two ways.
    Path = "path", 404;
    /// The repository is not an upstream of this bottle.
    UnknownUpstream = "unknown-upstream", 404;
    /// The request is none of the four of smart HTTP.
    Service = "service", 403;
    /// The body has another type than the request needs.
    ContentType = "content-type", 415;
    /// The body has a coding other than gzip, or broken gzip.
    Coding = "coding", 415;
    /// The request is larger than its limit.
    BodyTooLarge = "body-too-large", 413;
    /// The request took too long.
    Timeout = "timeout", 408;
    /// A pkt-line is malformed.
    PktLine = "pkt-line", 400;
    /// A ref update or capability is malformed or not supported, or there are too many.
    Command = "command", 400;
    /// The object format is not SHA-1.
    ObjectFormat = "object-format", 400;

    /// The policy allows no push to this upstream.
    ReadOnly = "read-only", 403;
    /// The name is not valid for a ref.
    RefName = "ref-name", 403;
    /// The ref is neither a branch nor a tag.
    RefKind = "ref-kind", 403;
    /// A ref would be deleted.
    Delete = "delete", 403;
    /// No pattern allows the branch.
    Branch = "branch", 403;
    /// The branch is protected.
    Protected = "protected", 403;
    /// No pattern allows the tag.
    Tag = "tag", 403;
    /// An existing tag would be moved.
    TagMove = "tag-move", 403;
    /// A branch would lose commits.
    Force = "force", 403;
    /// The client's view of the upstream is out of date.
    Stale = "stale", 403;
    /// A branch does not point to a commit, or a tag does not lead to one.
    Target = "target", 403;

    /// The pack is larger than its limit.
    MaxPack = "max-pack", 413;
    /// The pack, or the set of new objects, has more objects than its limit.
    MaxObjects = "max-objects", 413;
    /// An object is larger than its limit.
    MaxBlob = "max-blob", 413;
    /// The pack is broken, or an object fails git's own checks.
    Pack = "pack", 400;
    /// An object that is referred to does not exist.
    Connectivity = "connectivity", 400;
    /// No pattern allows an author's address.
    Author = "author", 403;
    /// No pattern allows a committer's or tagger's address.
    Committer = "committer", 403;
    /// Something looks like a credential.
    Secret = "secret", 403;
    /// Some file systems read a path as `.git`.
    DotGit = "dot-git", 403;
    /// A path has characters that a terminal or another system acts on.
    PathText = "path-text", 403;
    /// A symbolic link leaves the tree, or replaces a file that git reads.
    Symlink = "symlink", 403;
    /// A submodule's URL contains a credential or runs a command.
    Submodule = "submodule", 403;

    /// The upstream cannot be reached.
    Upstream = "upstream", 502;
    /// The upstream refused the push.
    UpstreamRefused = "upstream-refused", 502;
    /// The scanner failed.
    Scanner = "scanner", 500;
    /// The audit log cannot be written.
    Audit = "audit", 503;
    /// The host failed, for example because its disk is full.
    Host = "host", 500;
    /// The bottle closed the connection early.
    Aborted = "aborted", 499;
}

impl Rule {
    /// Whether the policy refused, rather than that the network or the host failed.
    #[must_use]
    pub fn is_denial(self) -> bool {
        !matches!(
            self,
            Self::Upstream
                | Self::UpstreamRefused
                | Self::Scanner
                | Self::Audit
                | Self::Host
                | Self::Aborted
                | Self::Timeout
        )
    }
}

/// A request or push that is refused, or failed.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// One line for people. It never contains a secret.
    pub reason: String,
    /// One line that says what to do about it.
    pub hint: Option<String>,
    /// What the scan found, one line each.
    pub findings: Vec<String>,
}

impl Refusal {
    /// A refusal without a hint.
    pub fn new(rule: Rule, reason: impl Into<String>) -> Self {
        Self { rule, reason: reason.into(), hint: None, findings: Vec::new() }
    }

    /// A failure of the host: "the gate could not `what`". The error goes to the daemon's log only,
    /// because it may name paths of the host.
    pub fn host(what: &str, e: &dyn std::fmt::Display) -> Self {
        tracing::error!("{what}: {e}");
        Self::new(Rule::Host, format!("the gate could not {what} (see its log on the host)"))
    }

    /// The audit log is full or broken. Nothing is let through without a line in it.
    pub fn unrecorded() -> Self {
        Self::new(
            Rule::Audit,
            "the audit log takes no more lines (disk full, or this launch's budget spent), so nothing is let through",
        )
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The reason and the rule's code, in one line.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} [{}]", self.reason, self.rule.code())
    }

    /// The body of an HTTP response, plain text.
    #[must_use]
    pub fn body(&self) -> String {
        let hint = self.hint.as_ref().map(|h| format!("hint: {h}\n")).unwrap_or_default();
        format!("git-gate refused this: {}\n{hint}", self.line())
    }
}

/// Checks that tests can disable one at a time, to prove that an attack really succeeds without
/// the check. In release builds they cannot be disabled.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    #[cfg(test)]
    disabled: Vec<Rule>,
}

impl Checks {
    /// All checks but `disabled`, for a negative control.
    #[cfg(test)]
    pub fn without(disabled: &[Rule]) -> Self {
        Self { disabled: disabled.to_vec() }
    }

    /// Whether `rule` is enabled. Always true outside of this crate's tests.
    #[must_use]
    #[cfg_attr(not(test), allow(clippy::unused_self))]
    pub fn enabled(&self, rule: Rule) -> bool {
        #[cfg(test)]
        return !self.disabled.contains(&rule);
        #[cfg(not(test))]
        {
            let _ = rule;
            true
        }
    }

    /// Refuses by `rule` if `broken` is true and the rule is enabled.
    ///
    /// # Errors
    /// The refusal, with the reason that `why` returns.
    pub fn refuse_if(
        &self,
        broken: bool,
        rule: Rule,
        why: impl FnOnce() -> String,
    ) -> Result<(), Refusal> {
        if broken && self.enabled(rule) { Err(Refusal::new(rule, why())) } else { Ok(()) }
    }
}
