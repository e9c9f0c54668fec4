//! The guest's time of day. Only the host sets it: nothing else can tell the guest that the host
//! has slept.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Smaller differences are left alone, because a request takes some time to arrive.
const MAX_DIFFERENCE_MS: u64 = 500;

/// Sets the clock to `unix_ms` (milliseconds since 1970), forward or back, when it differs by more
/// than [`MAX_DIFFERENCE_MS`]. Returns the step in milliseconds, 0 when there was none.
///
/// # Errors
/// One line, when the clock cannot be set.
pub fn set(unix_ms: u64) -> Result<i64, String> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map_err(|e| format!("clock: {e}"))?;
    let wanted = Duration::from_millis(unix_ms);
    let step = step_ms(Duration::from(now), wanted);
    if step != 0 {
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(wanted))
            .map_err(|e| format!("clock: {e}"))?;
    }
    Ok(step)
}

/// The step from `now` to `wanted` (both since 1970) in milliseconds; 0 when none is needed.
fn step_ms(now: Duration, wanted: Duration) -> i64 {
    let difference = u64::try_from(now.abs_diff(wanted).as_millis()).unwrap_or(u64::MAX);
    if difference <= MAX_DIFFERENCE_MS {
        return 0;
    }
    let step = i64::try_from(difference).unwrap_or(i64::MAX);
    if wanted > now { step } else { -step }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_steps_forward_and_back_but_not_for_the_delay_of_a_request() {
        let now = Duration::from_secs(1_800_000_000);
        let hours = |n: u64| Duration::from_secs(n * 3600);
        assert_eq!(step_ms(now, now), 0);
        assert_eq!(step_ms(now, now + Duration::from_millis(500)), 0);
        assert_eq!(step_ms(now, now - Duration::from_millis(500)), 0);
        assert_eq!(step_ms(now, now + Duration::from_millis(501)), 501);
        assert_eq!(step_ms(now, now + hours(48)), 48 * 3_600_000, "the host has slept");
        assert_eq!(step_ms(now, now - hours(1)), -3_600_000, "the guest was ahead");
        assert_eq!(step_ms(Duration::ZERO, Duration::MAX), i64::MAX);
    }
}
