//! Every reason for which git does not get what it asked for, each with a stable name and a status.

use http::StatusCode;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal;)*) => {
        /// Why a request or a push was refused or failed; the name is stable and stands in audit
        /// lines.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rule { $($(#[$doc])* $name,)* }

        impl Rule {
            /// Name in audit lines and in messages.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// HTTP status, where the refusal is of the request and not of a ref.
            #[must_use]
            pub fn status(self) -> StatusCode {
                // Every literal below is a valid status.
                StatusCode::from_u16(match self { $(Self::$name => $status,)* }).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    };
}

rules! {
    /// A path that is no repository's, or could be read in two ways.
    Path = "path", 404;
    /// A repository that is no upstream of this bottle.
    UnknownUpstream = "unknown-upstream", 404;
    /// Anything but the four requests of smart HTTP.
    Service = "service", 403;
    /// A body that is not what its place asks for.
    ContentType = "content-type", 415;
    /// A coding other than gzip, or gzip that is broken.
    Coding = "coding", 415;
    /// A request over its limit of size.
    BodyTooLarge = "body-too-large", 413;
    /// A request that took too long.
    Timeout = "timeout", 408;
    /// A pkt-line that is none.
    PktLine = "pkt-line", 400;
    /// A command, capability or number of them that is not accepted.
    Command = "command", 400;
    /// Another object format than SHA-1.
    ObjectFormat = "object-format", 400;

    /// The policy allows no push to this upstream.
    ReadOnly = "read-only", 403;
    /// Not the name of a ref.
    RefName = "ref-name", 403;
    /// A ref that is neither branch nor tag.
    RefKind = "ref-kind", 403;
    /// A ref would be deleted.
    Delete = "delete", 403;
    /// A branch that no pattern allows.
    Branch = "branch", 403;
    /// A protected branch.
    Protected = "protected", 403;
    /// A tag that no pattern allows.
    Tag = "tag", 403;
    /// A tag that exists would be moved.
    TagMove = "tag-move", 403;
    /// A branch would lose commits.
    Force = "force", 403;
    /// The client's view of the upstream is old.
    Stale = "stale", 403;
    /// A branch that is not a commit, or a tag of something else.
    Target = "target", 403;

    /// A pack over its limit of size.
    MaxPack = "max-pack", 413;
    /// A pack, or what is new in it, over its limit of objects.
    MaxObjects = "max-objects", 413;
    /// An object over its limit of size.
    MaxBlob = "max-blob", 413;
    /// A pack that is broken, or an object that git's own checks refuse.
    Pack = "pack", 400;
    /// Something that is named is not there.
    Connectivity = "connectivity", 400;
    /// An author's address that no pattern allows.
    Author = "author", 403;
    /// A committer's or tagger's address that no pattern allows.
    Committer = "committer", 403;
    /// What looks like a credential.
    Secret = "secret", 403;
    /// A path that some systems take for `.git`.
    DotGit = "dot-git", 403;
    /// A path with characters that a terminal or another system acts on.
    PathText = "path-text", 403;
    /// A symbolic link that leaves the tree, or stands in for a file that git reads.
    Symlink = "symlink", 403;
    /// A submodule's URL that carries a credential or runs a command.
    Submodule = "submodule", 403;

    /// The upstream cannot be reached.
    Upstream = "upstream", 502;
    /// The upstream does not accept the push.
    UpstreamRefused = "upstream-refused", 502;
    /// The scanner did not do its work.
    Scanner = "scanner", 500;
    /// The audit log cannot be written.
    Audit = "audit", 503;
    /// The disk is full, or something else that is the host's.
    Host = "host", 500;
    /// The bottle went away before the end.
    Aborted = "aborted", 499;
}

impl Rule {
    /// Whether policy decided, rather than the network or the host.
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

/// A rule that applied.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// One line for people. Never a secret.
    pub reason: String,
    /// One line that says what would make it work.
    pub hint: Option<String>,
    /// What was found, one line each.
    pub findings: Vec<String>,
}

impl Refusal {
    /// A refusal without a hint.
    pub fn new(rule: Rule, reason: impl Into<String>) -> Self {
        Self { rule, reason: reason.into(), hint: None, findings: Vec::new() }
    }

    /// What the host could not do. The error goes to the daemon's log: the guest has no use for
    /// paths of the host.
    pub fn host(what: &str, e: &dyn std::fmt::Display) -> Self {
        tracing::error!("{what}: {e}");
        Self::new(Rule::Host, format!("the gate could not {what} (see its log on the host)"))
    }

    /// What cannot be recorded does not happen.
    pub fn unrecorded() -> Self {
        Self::new(
            Rule::Audit,
            "the audit log takes no more lines (disk full, or this launch's budget spent), so nothing is let through",
        )
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The reason and the rule.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} [{}]", self.reason, self.rule.code())
    }

    /// Text of a response's body.
    #[must_use]
    pub fn body(&self) -> String {
        let hint = self.hint.as_ref().map(|h| format!("hint: {h}\n")).unwrap_or_default();
        format!("git-gate refused this: {}\n{hint}", self.line())
    }
}

/// The rules in force. Outside this crate's tests that is all of them, always.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// Rules that a test has switched off, to show that the attack they stop is real.
    #[cfg(test)]
    pub off: Vec<Rule>,
}

impl Guards {
    /// Whether a test has switched `rule` off.
    #[must_use]
    #[cfg_attr(not(test), allow(clippy::unused_self))]
    pub fn is_off(&self, rule: Rule) -> bool {
        #[cfg(test)]
        return self.off.contains(&rule);
        #[cfg(not(test))]
        {
            let _ = rule;
            false
        }
    }

    /// `Err` when `broken`: the one place where a check becomes a refusal.
    ///
    /// # Errors
    /// The refusal made by `why`.
    pub fn check(
        &self,
        broken: bool,
        rule: Rule,
        why: impl FnOnce() -> String,
    ) -> Result<(), Refusal> {
        if broken && !self.is_off(rule) { Err(Refusal::new(rule, why())) } else { Ok(()) }
    }
}
