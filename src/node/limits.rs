//! Bounds of memory and log that the node minds: at them clients' writes are slowed, then refused, and told why.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::commit::Signal;
use crate::engine::Short;

/// How often the thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a commit with clients' writes waits when the log is nearly at its bound.
const SLOWEST: Duration = Duration::from_millis(20);

/// Beyond these clients' writes are refused; in bytes, 0 for no bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// Memory of the process.
    pub memory: u64,
    /// Log since the last checkpoint. From half of it on writes are slowed.
    pub log: u64,
}

/// What the thread that minds the bounds needs.
#[derive(Debug, Default)]
pub(super) struct Minding {
    pub(super) bounds: Bounds,
    pub(super) look: Signal,
}

/// What the cells took when the process came to its bound. Memory that deletes free is kept by the process, which uses
/// it again: so room is there once they take clearly less, though the system's figure may never go back.
#[derive(Debug, Default)]
struct Full {
    cells: Option<u64>,
    refusing: bool,
}

impl Full {
    fn look(&mut self, bound: u64, resident: u64, cells: u64) -> bool {
        if bound == 0 || resident <= bound {
            *self = Self::default();
            return false;
        }
        let full = *self.cells.get_or_insert(cells);
        let room = if self.refusing { full - full / 20 } else { full };
        self.refusing = cells >= room;
        self.refusing
    }
}

impl Node {
    /// Minds the bounds until the node stops. A thread of its own runs it.
    pub(super) fn run_limits(&self) {
        let mut full = Full::default();
        while !self.0.stopping.load(Ordering::Acquire) {
            self.mind(&mut full);
            self.0.limits.look.wait(LOOK_EVERY);
        }
    }

    fn mind(&self, full: &mut Full) {
        let bounds = self.0.limits.bounds;
        let log = self.logged();
        let resident = if bounds.memory > 0 { resident_bytes() } else { 0 };
        let mut engine = self.lock();
        let cells = engine.replica().state().tallies().bytes;
        let memory = full.look(bounds.memory, resident, cells).then_some(bounds.memory);
        let short = Short { memory, log: (bounds.log > 0 && log > bounds.log).then_some(bounds.log) };
        let before = engine.set_short(short);
        drop(engine);
        if short.memory.is_some() != before.memory.is_some() {
            let (bound, refused) = (bounds.memory, short.memory.is_some());
            tracing::warn!(
                resident,
                cells,
                bound,
                refused,
                "max_memory: clients' writes are refused beyond it, but for deletes"
            );
        }
        if short.log.is_some() != before.log.is_some() {
            let (bound, refused) = (bounds.log, short.log.is_some());
            tracing::warn!(
                log,
                bound,
                refused,
                "max_log: clients' writes are refused beyond it, until there is a checkpoint"
            );
        }
    }

    /// Holds up whoever writes, as far as the log is short of room.
    pub async fn pace(&self) {
        let bound = self.0.limits.bounds.log;
        // Mostly there is room, and nobody need be asked what of the log does not count.
        if hold(bound, self.0.housekeeper.bytes_since_checkpoint()).is_zero() {
            return;
        }
        let hold = hold(bound, self.logged());
        if !hold.is_zero() {
            tokio::time::sleep(hold).await;
        }
    }
}

/// Nothing up to half of the bound, then ever longer.
fn hold(bound: u64, used: u64) -> Duration {
    if bound == 0 {
        return Duration::ZERO;
    }
    let over = used.saturating_sub(bound / 2) as f64 / bound.div_ceil(2) as f64;
    SLOWEST.mul_f64(over.min(1.0))
}

/// What the system says of the process's memory, in bytes.
pub(super) fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deletes_free_is_room_though_the_process_keeps_it() {
        let mut full = Full::default();
        assert!(!full.look(0, 1 << 40, 9) && !full.look(100, 100, 80));
        assert!(full.look(100, 101, 80) && full.look(100, 101, 79), "a little is not enough to go on");
        assert!(!full.look(100, 101, 75) && !full.look(100, 101, 79), "what was freed is used again");
        assert!(full.look(100, 101, 80), "and no more than that");
        assert!(!full.look(100, 90, 80), "memory was given back");
        assert!(full.look(100, 101, 0), "all of it is something else");
    }

    #[test]
    fn writers_are_slowed_from_half_of_the_bound_on() {
        assert_eq!(hold(0, 1 << 40), Duration::ZERO);
        assert_eq!(hold(100, 50), Duration::ZERO);
        assert_eq!(hold(100, 75), SLOWEST / 2);
        assert_eq!(hold(100, 100), SLOWEST);
        assert_eq!(hold(100, 1_000), SLOWEST);
    }
}
