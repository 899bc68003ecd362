//! The simulator: the production engine, encoders and store format in a world with one
//! seed. Same seed, same run, byte for byte. See README.md in this directory.

#![allow(clippy::disallowed_methods, reason = "the runner counts real time; the world it runs does not")]
#![allow(unreachable_pub, reason = "a test is one crate with nobody outside")]

mod args;
mod checks;
mod clients;
mod cursors;
mod disks;
mod dump;
mod facts;
mod figures;
mod fingerprints;
mod fleet;
mod ills;
mod limits;
mod memory;
#[cfg(feature = "mutants")]
mod mutants;
mod names;
mod nemesis;
mod net;
mod oracle;
mod pending;
mod plan;
mod process;
mod readers;
mod run;
mod shrink;
mod suite;
mod wires;
mod world;

use std::cell::RefCell;
use std::process::ExitCode;

use args::Args;
use fleet::{Fleet, Until};
use plan::{Plan, Profile};
use run::run;

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What the last panic of this thread said, and where.
pub fn last_panic() -> String {
    PANIC.with_borrow(String::clone)
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| PANIC.set(info.to_string())));
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    let passed = if args.is_suite() {
        suite::run_all(&args)
    } else if let (Some(seed), None) = (args.seed, args.until) {
        replay(&args, seed)
    } else {
        by_hand(&args)
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One schedule, with its story.
fn replay(args: &Args, seed: u64) -> bool {
    let plan = Plan::draw(seed, args.profile.unwrap_or(Profile::Chaos), &args.over);
    println!("{plan}");
    let report = run(plan, args.tell);
    report.story.iter().for_each(|line| println!("{line}"));
    println!("{}", report.facts);
    println!("{}", report.failure.as_deref().unwrap_or("ok"));
    report.failure.is_none()
}

/// Many schedules of all profiles, or of one.
fn by_hand(args: &Args) -> bool {
    let until = args.until.unwrap_or(Until::Schedules(1_000));
    let profiles = args.profile.map_or(Profile::ALL.to_vec(), |only| vec![only]);
    let first = match (args.seed, until) {
        (Some(seed), _) => seed,
        (None, Until::Schedules(_)) => 1,
        (None, Until::Minutes(_)) => rand::random_range(1..1 << 40),
    };
    println!("seeds from {first} on");
    let Args { over, jobs, shrink, .. } = args;
    let fleet = Fleet { profiles: &profiles, first, until, over, jobs: *jobs, shrink: *shrink };
    let outcome = fleet.run();
    outcome.tell();
    outcome.failed == 0
}
