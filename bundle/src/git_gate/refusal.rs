//! Every reason for which a request or a push is refused or fails, with its stable code and its HTTP
//! status. The status is used when the request itself is refused, and not a ref of a push.

use std::fmt::Display;

use crate::daemon::{checks, refusal};

/// A request or push that is refused, or failed.
pub type Refusal = refusal::Refusal<Rule>;

/// The rules that are enabled.
pub type Checks = checks::Checks<Rule>;

refusal::rules! {
    /// Why a request or a push was refused or failed.
    pub enum Rule, refused by "git-gate";

    denials {
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
    }

    failures {
        /// The request took too long.
        Timeout = "timeout", 408;
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
}

impl Refusal {
    /// A failure of the host: "git-gate could not `what`". The error goes to the daemon's log only,
    /// because it may name paths of the host.
    pub fn host(what: &str, e: &dyn Display) -> Self {
        tracing::error!("{what}: {e}");
        Self::new(Rule::Host, format!("git-gate could not {what} (see its log on the host)"))
    }
}
