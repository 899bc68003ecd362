//! Each rule switched off must be noticed within some schedules.

use std::sync::atomic::{AtomicUsize, Ordering};

use tidings::core::mutant::{Mutant, set};

use crate::plan::{Overrides, Plan, Profile};
use crate::run::run;

/// Within how many schedules each must be caught.
const SCHEDULES: u64 = 3_000;

/// What became of a mutant.
#[derive(Debug)]
pub struct Hunted {
    pub mutant: Mutant,
    /// In which schedule it was caught, and by what.
    pub caught: Option<(u64, String)>,
}

/// Hunts all mutants, on all cores.
pub fn hunt() -> Vec<Hunted> {
    let next = AtomicUsize::new(0);
    let hunted = parking_lot::Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = hunt_one(*mutant);
                    hunted.lock().push(one);
                }
            });
        }
    });
    let mut hunted = hunted.into_inner();
    hunted.sort_by_key(|one: &Hunted| one.mutant as usize);
    hunted
}

fn hunt_one(mutant: Mutant) -> Hunted {
    set(Some(mutant));
    let caught = (1..=SCHEDULES).find_map(|seed| {
        let profile = if seed % 2 == 0 { Profile::Chaos } else { Profile::Storm };
        let report = run(Plan::draw(seed, profile, &Overrides::default()), false);
        report.failure.map(|failure| (seed, failure))
    });
    set(None);
    Hunted { mutant, caught }
}
