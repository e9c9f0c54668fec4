//! Writes and verifies `.smolmachine` files, which smolvm's `machine create --from` reads.
//!
//! The format, as smolvm 1.32's own writer (`smolvm-pack`) defines it, is a zstd-compressed tar of
//! `layers/DIGEST.tar`, then a JSON manifest, then a footer of 64 bytes with the position of both.
//! Agent, libraries and disk templates may be left out: smolvm then uses its own. We do not use the
//! crate `smolvm-pack`, because its writer is not reproducible and locks `$HOME/.cache`, and it
//! would add thirty packages to the lock file for a struct and a footer.
//!
//! The same input gives the same bytes on every machine and for every user: only names, modes,
//! links and contents are read.

mod archive;
mod container;
mod error;
mod layer;
mod tree;

pub use archive::Archive;
pub use container::{Manifest, PackReport, Spec, host_platform, inspect, pack, verify};
pub use error::PackError;
pub use layer::Layer;
pub use tree::{File, Tree};
