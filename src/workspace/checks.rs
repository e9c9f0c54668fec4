//! Checks on a guest's files that tests can disable one at a time.

/// Which checks are made. The attack tests disable one at a time, to prove that an attack really
/// succeeds without the check; other code only ever uses [`WorkspaceChecks::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceChecks {
    /// Names are checked.
    pub names: bool,
    /// Links may not lead out of the project.
    pub links: bool,
    /// Nothing is written through a link of the host.
    pub no_follow: bool,
    /// A file that the operator changed meanwhile is not overwritten.
    pub conflicts: bool,
    /// The manifest's own files are only taken when they are asked for.
    pub manifest: bool,
}

impl WorkspaceChecks {
    /// All of them.
    pub const ALL: Self =
        Self { names: true, links: true, no_follow: true, conflicts: true, manifest: true };
}
