//! A launch: bring-up of a bottle, the running agent, and the teardown in reverse order.

mod attach;
mod bring_up;
mod clock;
mod control;
mod demo_upstream;
mod endpoints;
mod progress;
mod run;
mod selftest;
mod signals;
mod state;
mod teardown;

pub use attach::attach;
pub use control::{Request, STOP_DEADLINE, connect, decide, reload, stop};
pub use state::Launch;
