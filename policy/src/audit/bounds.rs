//! Limits on how much a guest can make a log grow.

use std::time::{Duration, Instant};

/// Minimum time between two lines that count suppressed refusals.
const SUPPRESSED_INTERVAL: Duration = Duration::from_secs(1);

/// Limits for one run of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Maximum bytes, not counting closing lines; there are at most as many of those as there are
    /// concurrent requests.
    pub bytes: u64,
    /// Maximum number of refusals written per second, on average.
    pub refusals_per_second: u32,
    /// Maximum number of refusals written at once.
    pub refusal_burst: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 256 << 20, refusals_per_second: 200, refusal_burst: 1000 }
    }
}

/// A token bucket for refusals, and a count of the refusals that got no token.
#[derive(Debug)]
pub(super) struct Refusals {
    tokens: f64,
    filled: Instant,
    /// Refusals since the last line that counted them.
    suppressed: u64,
    last_count: Option<Instant>,
}

impl Refusals {
    pub(super) fn new(bounds: &Bounds, now: Instant) -> Self {
        Self {
            tokens: f64::from(bounds.refusal_burst),
            filled: now,
            suppressed: 0,
            last_count: None,
        }
    }

    /// Whether a refusal may be written. If not, this counts it.
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

    /// Takes the number of suppressed refusals, if it is time to write it.
    pub(super) fn due(&mut self, now: Instant, immediately: bool) -> Option<u64> {
        let is_due = self
            .last_count
            .is_none_or(|then| now.saturating_duration_since(then) >= SUPPRESSED_INTERVAL);
        if self.suppressed == 0 || !(is_due || immediately) {
            return None;
        }
        self.last_count = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}
