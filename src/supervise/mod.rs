//! Proposals: what an agent asked for, what was decided, and how that is kept and put in force.

mod broker;
mod checks;
mod decide;
mod manifest_edit;
mod proposal;
mod queue;
mod render;
mod save;
mod submit;
#[cfg(test)]
mod tests;

pub(crate) use broker::{Asked, Desk};
pub use proposal::*;
pub use queue::{Left, Queue};
pub(crate) use render::paint;
pub use render::{Tone, ago, diff, lines, one_line};
pub use save::saved;
