//! What a guest can make a log grow by.

use std::time::{Duration, Instant};

/// A line that counts suppressed refusals is written at most this often, while any come.
const COUNTED_EVERY: Duration = Duration::from_secs(1);

/// What one run of a daemon writes at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes, but for closing lines, of which there are no more than requests at once.
    pub bytes: u64,
    /// Refusals that are written in a second, on average.
    pub refusals_per_second: u32,
    /// Refusals that are written at once, at most.
    pub refusal_burst: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 256 << 20, refusals_per_second: 200, refusal_burst: 1000 }
    }
}

/// A token bucket for refusals, and the count of what did not get a token.
#[derive(Debug)]
pub(super) struct Refusals {
    tokens: f64,
    filled: Instant,
    /// Refusals without a line since they were last counted in one.
    suppressed: u64,
    counted: Option<Instant>,
}

impl Refusals {
    pub(super) fn new(bounds: &Bounds, now: Instant) -> Self {
        Self { tokens: f64::from(bounds.refusal_burst), filled: now, suppressed: 0, counted: None }
    }

    /// Whether a refusal may be written; if not, it is counted.
    pub(super) fn take(&mut self, bounds: &Bounds, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64()
            * f64::from(bounds.refusals_per_second);
        self.tokens = (self.tokens + gained).min(f64::from(bounds.refusal_burst));
        self.filled = now;
        if self.tokens < 1.0 {
            self.suppressed += 1;
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// How many are to be reported, if it is time to; they count as reported.
    pub(super) fn due(&mut self, now: Instant, at_once: bool) -> Option<u64> {
        let waited =
            self.counted.is_none_or(|then| now.saturating_duration_since(then) >= COUNTED_EVERY);
        if self.suppressed == 0 || !(waited || at_once) {
            return None;
        }
        self.counted = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}
