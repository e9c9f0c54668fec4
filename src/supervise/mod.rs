//! Proposals: what an agent asks for, what was decided, and how that is kept and put in force.

mod broker;
mod checks;
mod decide;
mod manifest_edit;
mod outcome;
mod policy_change;
mod proposal;
mod queue;
mod render;
mod save;
mod state;
mod submit;
#[cfg(test)]
mod tests;

pub(crate) use broker::ProposalBroker;
pub(crate) use outcome::DecisionRequest;
pub use policy_change::{with_git, without_git};
pub use proposal::*;
pub use queue::{Interrupted, Queue};
pub(crate) use render::paint;
pub use render::{Tone, ago, diff, lines};
pub use save::edit_manifest;
