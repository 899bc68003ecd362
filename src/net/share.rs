//! A peer's share of this node's time. What brings news is taken in as fast as it comes; what asks for something, or
//! says what is known already, costs its sender: whoever is over its share is not read from for a while, and QUIC's
//! flow control passes that on.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Of each second, what a peer may have of one core, as a divisor.
const SHARE: u32 = 2;
/// What it may have at once, after a while in which it had nothing.
const BURST: Duration = Duration::from_secs(2);
/// What it has again after a pause.
const AFTER: Duration = Duration::from_millis(10);

/// The account of one link.
#[derive(Debug)]
pub(super) struct Share {
    left: Duration,
    owed: Duration,
    at: Instant,
    pauses: u64,
}

impl Share {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, owed: Duration::ZERO, at: now, pauses: 0 }
    }

    /// Takes note of what was spent. Answers with how long not to read, and the how manieth pause that is.
    pub(super) fn spend(&mut self, now: Instant, spent: Duration) -> Option<(Duration, u64)> {
        let earned = now.saturating_duration_since(self.at) / SHARE;
        self.at = now;
        let (earned, owed) = (earned.saturating_sub(self.owed), self.owed.saturating_sub(earned));
        let had = (self.left + earned).min(BURST);
        self.owed = owed + spent.saturating_sub(had);
        self.left = had.saturating_sub(spent);
        if self.owed.is_zero() {
            return None;
        }
        self.pauses += 1;
        Some(((self.owed + AFTER) * SHARE, self.pauses))
    }
}

/// Processor time that this thread has had.
pub(super) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_core_and_no_more() {
        let began = Instant::now();
        let (mut now, mut share, mut spent) = (began, Share::new(began), Duration::ZERO);
        let cost = Duration::from_millis(3);
        while spent < Duration::from_secs(60) {
            now += cost;
            spent += cost;
            if let Some((pause, _)) = share.spend(now, cost) {
                assert!(pause < Duration::from_millis(60), "{pause:?}");
                now += pause;
            }
        }
        let took = (now - began).as_secs_f64();
        assert!((114.0..=120.0).contains(&took), "a minute of work took {took} s");
    }

    #[test]
    fn who_asks_little_never_waits() {
        let began = Instant::now();
        let (mut now, mut share) = (began, Share::new(began));
        for _ in 0..100_000 {
            now += Duration::from_millis(1);
            assert_eq!(share.spend(now, Duration::from_micros(400)), None);
        }
        assert_eq!(share.spend(now, BURST * 9 / 10), None, "what it has not used is there at once");
        assert!(share.spend(now, Duration::from_secs(1)).is_some());
    }
}
