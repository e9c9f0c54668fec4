//! Attacks, one named entry a case. Each has a twin that shows the attack work without the guard.

pub mod denial;
pub mod isolation;
pub mod secrets;

/// A named case.
pub type Case = (&'static str, fn());
