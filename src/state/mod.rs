//! Per-bottle directories, metadata, locks and the launch journal; everything private to the host
//! user.
//!
//! `STATE/bottles/SLUG/` keeps what outlives a launch (metadata, plan, audit log); `RUNTIME/SLUG/`
//! holds sockets and the policy file and goes away with the launch. STATE is
//! `$XDG_STATE_HOME/bottle`, RUNTIME `$XDG_RUNTIME_DIR/bottle`, or `STATE/run` where there is no
//! runtime directory.

mod bottle;
mod bottle_state;
mod journal;
mod process_id;
mod roots;

pub use bottle::{BottleDir, BottleStatus, Metadata, Phase, now_ms};
pub use bottle_state::BottleState;
pub use journal::{Journal, Step, terminate};
pub use process_id::ProcessId;
pub use roots::Roots;
