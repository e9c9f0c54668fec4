//! The operator's project in a bottle: which files go in, and how work comes out again.
//!
//! Work that comes out was written by a guest: every name, link and byte of it is hostile. It is
//! unpacked into a private directory, compared with the files that went in, and only then applied
//! to the project, never through a link.

mod apply;
mod baseline;
mod beneath;
mod branch;
mod changes;
mod checks;
mod names;
mod snapshot;
pub mod transfer;
mod unpack;

#[cfg(test)]
mod attacks;

pub(crate) use apply::conflict;
pub use apply::{Outcome, apply};
pub use baseline::{Baseline, FileState};
pub use branch::commit;
pub use changes::{Change, ChangeKind, Changes, changes};
pub use checks::WorkspaceChecks;
pub use snapshot::{Entry, Snapshot};
pub use unpack::{RefusedFiles, UNPACK_LIMITS, tar_input, tar_script, unpack};
