//! Small checked values that manifest, providers and plan share. This module imports nothing else
//! of the crate.

mod guest_env;
mod location;
mod machine;
mod names;
mod quantity;
mod text;

pub use guest_env::{DEFAULT_VARIABLES, LAUNCH_VARIABLES, LaunchValue};
pub use location::Location;
pub use machine::{Guest, Resources};
pub use names::{EnvName, NameError, Slug};
pub use quantity::{ByteSize, Interval};
pub use text::{nearest, neutral, quote};
