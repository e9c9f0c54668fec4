//! Keeps a guest's clock right while its bottle runs. A guest cannot notice that its host has
//! slept, or that somebody has set the host's clock.

use std::time::{Duration, Instant, SystemTime};

use bottle_channel::{HostOpen, Session};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How often the host's two clocks are compared with each other, which costs nothing.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How often the guest's clock is compared with the host's, because it may drift.
const DRIFT_INTERVAL: Duration = Duration::from_secs(30);
/// A difference that matters. The guest ignores the same one.
const MAX_DIFFERENCE: Duration = Duration::from_millis(500);
/// Longest time for the guest's answer. A hostile guest may never give one.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Sets the guest's clock whenever it may be wrong, until it is dropped.
pub(super) struct ClockKeeper(JoinHandle<()>);

impl Drop for ClockKeeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ClockKeeper {
    /// Sets the clock of the guest behind `session` now, and again when needed.
    pub(super) fn start(session: Session<HostOpen>) -> Self {
        let started = Instant::now();
        Self(tokio::spawn(keep(session, move || HostTime {
            unix: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
            running: started.elapsed(),
        })))
    }
}

/// What the host's clocks show at one moment.
#[derive(Debug, Clone, Copy)]
struct HostTime {
    /// Time of day, since 1970.
    unix: Duration,
    /// Time since the launch without the time that the host slept. Nobody can set this clock.
    running: Duration,
}

/// When the guest's clock was last set, if the guest was told in time.
#[derive(Debug, Default)]
struct LastSet(Option<HostTime>);

impl LastSet {
    /// Whether the guest's clock may be wrong at `now`.
    fn is_stale(&self, now: HostTime) -> bool {
        let Some(set) = self.0 else { return true };
        let passed = now.running.saturating_sub(set.running);
        // The time of day goes on during sleep, and a step or a slow correction moves it too.
        passed >= DRIFT_INTERVAL || now.unix.abs_diff(set.unix + passed) > MAX_DIFFERENCE
    }

    /// Notes that the guest was sent the time of `sent` and answered, or did not, at `now`.
    fn tried(&mut self, sent: HostTime, now: HostTime) {
        // A request that took long carried an old time: the next poll sends another.
        let took = now.running.saturating_sub(sent.running);
        self.0 = (took <= MAX_DIFFERENCE).then_some(sent);
    }
}

/// Sets the guest's clock whenever it may be wrong.
async fn keep(session: Session<HostOpen>, read: impl Fn() -> HostTime) {
    let mut polls = tokio::time::interval(POLL_INTERVAL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_set = LastSet::default();
    loop {
        polls.tick().await;
        let now = read();
        if !last_set.is_stale(now) {
            continue;
        }
        let unix_ms = u64::try_from(now.unix.as_millis()).unwrap_or(u64::MAX);
        match tokio::time::timeout(ANSWER_DEADLINE, session.set_clock(unix_ms)).await {
            Ok(Ok(step_ms)) => tracing::debug!(step_ms, "set the guest's clock"),
            Ok(Err(e)) => tracing::debug!("the guest's clock cannot be set: {e}"),
            Err(_) => tracing::debug!("the guest does not answer when its clock is set"),
        }
        last_set.tried(now, read());
    }
}

#[cfg(test)]
mod tests {
    use bottle_channel::{Reply, write_header};
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// A fake host and the keeper's state: time passes only as a test says.
    struct World {
        now: HostTime,
        last_set: LastSet,
    }

    impl World {
        /// A guest whose clock was set just now.
        fn new() -> Self {
            let now =
                HostTime { unix: Duration::from_secs(1_800_000_000), running: Duration::ZERO };
            let mut last_set = LastSet::default();
            assert!(last_set.is_stale(now), "at the start");
            last_set.tried(now, now);
            Self { now, last_set }
        }

        fn pass(&mut self, time: Duration) {
            self.now.unix += time;
            self.now.running += time;
        }

        /// Moves the time of day alone, as sleep and whoever sets the clock do.
        fn step(&mut self, ms: i64) {
            let by = Duration::from_millis(ms.unsigned_abs());
            self.now.unix = if ms < 0 { self.now.unix - by } else { self.now.unix + by };
        }

        /// Polls; whether the guest was told the time. It answers after `delay`.
        fn poll_slow(&mut self, delay: Duration) -> bool {
            self.pass(POLL_INTERVAL);
            let sent = self.now;
            let stale = self.last_set.is_stale(sent);
            if stale {
                self.pass(delay);
                self.last_set.tried(sent, self.now);
            }
            stale
        }

        fn poll(&mut self) -> bool {
            self.poll_slow(Duration::ZERO)
        }
    }

    #[test]
    fn a_sleep_and_a_step_either_way_reach_the_guest_at_the_next_poll() {
        for ms in [48 * 3_600_000, 501, -3_600_000, -501] {
            let mut world = World::new();
            assert!(!world.poll(), "the clock is right");
            world.step(ms);
            assert!(world.poll(), "{ms} ms");
            assert!(!world.poll(), "{ms} ms: once is enough");
        }
        for ms in [0, 500, -500] {
            let mut world = World::new();
            world.step(ms);
            assert!(!world.poll(), "{ms} ms do not matter");
        }
    }

    #[test]
    fn slow_drift_of_either_side_is_corrected() {
        // The guest's own drift cannot be seen from the host, so it is told the time regularly.
        let mut world = World::new();
        let told: Vec<usize> = (1..=45).filter(|_| world.poll()).collect();
        assert_eq!(told, [15, 30, 45]);
        // Somebody corrects the host's clock slowly.
        for by in [110, -110] {
            let mut world = World::new();
            let polls = (1..).find(|_| {
                world.step(by);
                world.poll()
            });
            assert_eq!(polls, Some(5));
        }
    }

    #[test]
    fn a_late_or_missing_answer_is_followed_by_another_request() {
        let mut world = World::new();
        world.step(3_600_000);
        assert!(world.poll_slow(Duration::from_secs(1)), "the guest got an old time");
        assert!(world.poll_slow(ANSWER_DEADLINE), "it may have got none");
        assert!(world.poll());
        assert!(!world.poll());
    }

    #[tokio::test]
    async fn a_guest_is_told_the_time_of_the_host() {
        let (h, g) = duplex(64 * 1024);
        let (host, _, driver) = Session::host(h);
        tokio::spawn(driver);
        let (_guest, mut from_host, driver) = Session::guest(g);
        tokio::spawn(driver);
        let _keeper = ClockKeeper::start(host);
        let (open, mut stream) = from_host.next().await.unwrap();
        let HostOpen::SetClock { unix_ms } = open else { panic!("{open:?}") };
        let difference = crate::state::now_ms().abs_diff(unix_ms);
        assert!(difference < 60_000, "{difference} ms");
        write_header(&mut stream, &Reply::Ok(0_i64)).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}
