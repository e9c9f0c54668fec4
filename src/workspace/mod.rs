//! The operator's project in a bottle: what of it goes in, and how work comes out again.
//!
//! What comes out was written by a guest: every name, link and byte of it is hostile. It is
//! unpacked into a private directory, compared with what went in, and only then applied to the
//! project, never through a link.

mod apply;
mod baseline;
mod branch;
mod changes;
mod names;
mod snapshot;
pub mod transfer;
mod unpack;

#[cfg(test)]
mod attacks;

pub(crate) use apply::conflict;
pub use apply::{Outcome, apply};
pub use baseline::{Baseline, Kept};
pub use branch::commit;
pub use changes::{Change, Changes, What, changes};
pub(crate) use snapshot::size;
pub use snapshot::{Entry, Snapshot};
pub use unpack::{MOST, Taken, input, script, unpack};

/// Which guards the attacks' twins switch off; there is no way to do so outside of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guards {
    /// Names are looked at.
    pub names: bool,
    /// Links may not lead out.
    pub links: bool,
    /// Nothing is written through a link of the host.
    pub follow: bool,
    /// What the operator changed meanwhile is not overwritten.
    pub conflicts: bool,
    /// The manifest's own files need to be asked for.
    pub manifest: bool,
}

impl Guards {
    /// All of them.
    pub const ON: Self =
        Self { names: true, links: true, follow: true, conflicts: true, manifest: true };
}
