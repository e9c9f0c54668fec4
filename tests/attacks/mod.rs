//! Attacks, one named entry a case. Each has a twin that shows the attack work without the guard.

pub mod denial;
pub mod git;
pub mod isolation;
pub mod secrets;
#[path = "supervise/page.rs"]
pub mod supervise_page;

/// A named case.
pub type Case = (&'static str, fn());
