//! The hybrid logical clock (Kulkarni et al., 2014), with a ceiling kept on disk.

use tidings_proto::Stamp;

use super::mutant::{self, Mutant};

/// How far ahead of the last stamp the persisted ceiling is put, in milliseconds.
const CEILING_AHEAD: u64 = 10_000;

/// Issues stamps that only grow, close to the wall clock, and past every stamp
/// seen unless that came from a clock too far ahead.
#[derive(Debug, Clone)]
pub struct Clock {
    last: Stamp,
    ceiling: Stamp,
    max_drift_millis: u64,
}

impl Clock {
    /// A clock that goes on above `ceiling`, the one persisted by the last life of this node.
    pub fn new(ceiling: Stamp, max_drift_millis: u64) -> Self {
        Self { last: ceiling, ceiling, max_drift_millis }
    }

    /// A new stamp, greater than all before it.
    pub fn tick(&mut self, wall_millis: u64) -> Stamp {
        let next = Stamp(self.last.0.saturating_add(1)).max(Stamp::from_millis(wall_millis));
        if mutant::is(Mutant::ClockGoesBack) {
            self.last = Stamp::from_millis(wall_millis);
            return self.last;
        }
        assert!(next > self.last, "the clock ran out of stamps");
        self.last = next;
        next
    }

    /// Moves past a stamp from elsewhere, unless it is further ahead of the wall
    /// clock than the greatest drift allowed.
    pub fn observe(&mut self, stamp: Stamp, wall_millis: u64) {
        if stamp.millis() <= wall_millis.saturating_add(self.max_drift_millis) {
            self.last = self.last.max(stamp);
        }
    }

    /// If stamps have come near the persisted ceiling: the new ceiling, which
    /// must be on its way to disk before any stamp above the old one leaves.
    pub fn raise_ceiling(&mut self) -> Option<Stamp> {
        if self.last < self.ceiling {
            return None;
        }
        self.ceiling = Stamp::from_millis(self.last.millis() + CEILING_AHEAD);
        Some(self.ceiling)
    }

    /// The ceiling that is, or is about to be, on disk.
    pub fn ceiling(&self) -> Stamp {
        self.ceiling
    }

    /// Sets the greatest drift that is followed, in milliseconds.
    pub fn set_max_drift(&mut self, millis: u64) {
        self.max_drift_millis = millis;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_whatever_the_wall_clock_does() {
        let mut clock = Clock::new(Stamp::default(), 500);
        let mut last = Stamp::default();
        for wall in [1_000, 1_000, 999, 5, 2_000, 2_000] {
            let stamp = clock.tick(wall);
            assert!(stamp > last);
            last = stamp;
        }
        assert_eq!(last.millis(), 2_000);
    }

    #[test]
    fn a_restart_with_the_clock_set_back_goes_on_above_the_ceiling() {
        let mut clock = Clock::new(Stamp::default(), 500);
        let before = clock.tick(1_000_000);
        let ceiling = clock.raise_ceiling().expect("the first stamp is above the empty ceiling");
        let mut clock = Clock::new(ceiling, 500);
        assert!(clock.tick(1_000) > before);
    }

    #[test]
    fn a_clock_far_ahead_is_not_followed() {
        let mut clock = Clock::new(Stamp::default(), 500);
        clock.observe(Stamp::from_millis(10_000), 1_000);
        assert_eq!(clock.tick(1_000).millis(), 1_000);
        clock.observe(Stamp::from_millis(1_500), 1_000);
        assert_eq!(clock.tick(1_000).millis(), 1_500);
    }

    #[test]
    fn the_ceiling_is_raised_once_per_stretch() {
        let mut clock = Clock::new(Stamp::default(), 500);
        clock.tick(1_000);
        assert_eq!(clock.raise_ceiling(), Some(Stamp::from_millis(11_000)));
        clock.tick(5_000);
        assert_eq!(clock.raise_ceiling(), None);
        clock.tick(11_000);
        assert!(clock.raise_ceiling().is_some());
    }
}
