//! Each rule switched off must be noticed within some schedules.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tidings::core::mutant::{Mutant, set};

use crate::args::Args;
use crate::plan::{Kind, Overrides, Plan, Profile};
use crate::run::run;

/// Within how many schedules each must be caught.
const SCHEDULES: u64 = 10_000;

/// The tests' names.
pub fn names() -> impl Iterator<Item = String> {
    Mutant::ALL.into_iter().map(name)
}

fn name(mutant: Mutant) -> String {
    format!("mutant_{mutant:?}_is_caught")
}

/// Hunts those that are wanted, on all cores, and tells of each when it is caught.
pub fn hunt(args: &Args, note: &mut (impl FnMut(&str, bool) + Send)) {
    let wanted: Vec<Mutant> = Mutant::ALL.into_iter().filter(|mutant| args.wants(&name(*mutant))).collect();
    let next = AtomicUsize::new(0);
    let note = Mutex::new(note);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while let Some(mutant) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let caught = hunt_one(*mutant);
                    let by = caught.as_ref().map_or(String::new(), |(schedule, by)| {
                        format!(" (schedule {schedule}: {})", by.lines().next().unwrap_or_default())
                    });
                    (note.lock())(&format!("{}{by}", name(*mutant)), caught.is_some());
                }
            });
        }
    });
}

/// In which schedule it was caught, and by what.
fn hunt_one(mutant: Mutant) -> Option<(u64, String)> {
    (1..=SCHEDULES).find_map(|seed| {
        let profiles = profiles(mutant);
        let profile = profiles[(seed % profiles.len() as u64) as usize];
        let fails = |broken| {
            set(broken);
            let over = Overrides { faults: faults(mutant), ..Overrides::default() };
            let report = run(Plan::draw(seed, profile, &over), false);
            set(None);
            report.failure
        };
        // What fails without it too says nothing of it.
        fails(Some(mutant)).filter(|_| fails(None).is_none()).map(|failure| (seed, failure))
    })
}

/// Where it is looked for: in rough runs, in turn, unless some of them cannot show it or show it seldom.
fn profiles(mutant: Mutant) -> &'static [Profile] {
    match mutant {
        // Room for removals is short only where no fault loses writes for good.
        Mutant::RoomBeforeUnion => &[Profile::Chaos],
        Mutant::StalePayload => &[Profile::Storm],
        _ => &[Profile::Chaos, Profile::Storm],
    }
}

/// Among which faults it is looked for, if not among those that the seed draws.
fn faults(mutant: Mutant) -> Option<Vec<Kind>> {
    match mutant {
        // Takes frames that come twice beside merges of several requests.
        Mutant::SecondContext | Mutant::FetchesUnnumbered => {
            Some(vec![Kind::Duplicate, Kind::Partition, Kind::Blank, Kind::Restore])
        }
        _ => None,
    }
}
