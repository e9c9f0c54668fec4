//! The store paths that a launch is made of: a Nix closure.
//!
//! `closure.json` is built by Nix (nix/packages/closure.nix) and names every file with its SHA-256,
//! so that a file that is missing or was altered is refused before anything starts.

mod deferred_image;
mod format;
mod load;
mod verify;

pub use format::{
    Build, Bundle, Closure, DeferredImage, Engines, Image, Qemu, Smolvm, StoreFile, Tools,
};
pub use load::VARIABLE;
