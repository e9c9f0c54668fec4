//! A route's budget and rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bottle_policy::{Budget, Rate};

use crate::egress::refusal::{Checks, Refusal, Rule};

/// Counters of one route, kept when the policy is replaced.
#[derive(Debug, Default)]
pub struct Quota {
    up: AtomicU64,
    down: AtomicU64,
    requests: AtomicU64,
    bucket: Mutex<Option<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Quota {
    /// Counts one request against `rate`, and then against `budget`.
    ///
    /// # Errors
    /// [`Rule::Rate`], with the seconds to wait; [`Rule::Budget`].
    pub fn request(
        &self,
        rate: Option<Rate>,
        budget: &Budget,
        checks: &Checks,
    ) -> Result<(), Refusal> {
        rate.map_or(Ok(()), |rate| self.request_at(rate, Instant::now(), checks))?;
        let Some(most) = budget.requests else { return Ok(()) };
        // One atomic step, so that two requests at once cannot both be the last one.
        let counted = self
            .requests
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        checks.refuse_if(counted.is_err(), Rule::Budget, || {
            format!("the route is for {most} request(s), and that was it")
        })
    }

    fn request_at(&self, rate: Rate, now: Instant, checks: &Checks) -> Result<(), Refusal> {
        let most = f64::from(rate.requests);
        let per_second = most / f64::from(rate.seconds);
        let mut slot = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = slot.get_or_insert(Bucket { rate, left: most, at: now });
        if bucket.rate != rate {
            // A new rate does not refill the bucket.
            *bucket = Bucket { rate, left: most.min(bucket.left), at: now };
        }
        bucket.left =
            most.min(bucket.left + now.duration_since(bucket.at).as_secs_f64() * per_second);
        bucket.at = now;
        let wait = ((1.0 - bucket.left) / per_second).ceil().max(1.0);
        checks.refuse_if(bucket.left < 1.0, Rule::Rate, || {
            format!("the route's rate of {rate} is used up; try again in {wait:.0} s")
        })?;
        bucket.left -= 1.0;
        Ok(())
    }

    /// Counts `bytes` before they go to the upstream.
    ///
    /// # Errors
    /// [`Rule::Budget`]: they may not go.
    pub fn up(&self, bytes: u64, budget: &Budget, checks: &Checks) -> Result<(), Refusal> {
        add(&self.up, bytes, budget.up, "up", checks)
    }

    /// Counts `bytes` from the upstream before they go to the guest.
    ///
    /// # Errors
    /// [`Rule::Budget`]: they may not go.
    pub fn down(&self, bytes: u64, budget: &Budget, checks: &Checks) -> Result<(), Refusal> {
        add(&self.down, bytes, budget.down, "down", checks)
    }
}

fn add(
    sum: &AtomicU64,
    bytes: u64,
    most: Option<u64>,
    which: &str,
    checks: &Checks,
) -> Result<(), Refusal> {
    let before = sum.fetch_add(bytes, Ordering::Relaxed);
    let Some(most) = most else { return Ok(()) };
    checks.refuse_if(before.saturating_add(bytes) > most, Rule::Budget, || {
        format!("the route's budget of {most} bytes {which} for this launch is spent")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_refills_with_time_and_a_new_one_gives_nothing_away() {
        let (quota, checks, start) = (Quota::default(), Checks::default(), Instant::now());
        let ask = |rate: &str, ms| {
            quota
                .request_at(
                    rate.parse().unwrap(),
                    start + std::time::Duration::from_millis(ms),
                    &checks,
                )
                .is_ok()
        };
        assert!(ask("2/s", 0) && ask("2/s", 0) && !ask("2/s", 0));
        assert!(ask("2/s", 600) && !ask("2/s", 600));
        assert!(!ask("100/h", 700), "a reload is no refill");
    }

    #[test]
    fn a_budget_ends_at_its_last_byte() {
        let (quota, checks) = (Quota::default(), Checks::default());
        let budget = Budget { up: Some(10), requests: Some(1), ..Budget::default() };
        assert!(quota.up(10, &budget, &checks).is_ok());
        assert_eq!(quota.up(1, &budget, &checks).unwrap_err().rule, Rule::Budget);
        assert!(quota.down(1 << 40, &budget, &checks).is_ok());
        assert!(
            quota.up(1, &budget, &Checks::without(&[Rule::Budget])).is_ok(),
            "negative control"
        );
        assert!(quota.request(None, &budget, &checks).is_ok());
        assert_eq!(quota.request(None, &budget, &checks).unwrap_err().rule, Rule::Budget);
        assert!(quota.request(None, &Budget::default(), &checks).is_ok());
    }
}
