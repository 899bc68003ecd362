//! The simulator: the production engine, encoders and store format in a world with one
//! seed. Same seed, same run, byte for byte. See README.md in this directory.

#![allow(clippy::disallowed_methods, reason = "the runner counts real time; the world it runs does not")]
#![allow(unreachable_pub, reason = "a test is one crate with nobody outside")]

mod args;
mod checks;
mod clients;
mod dump;
mod fingerprints;
#[cfg(feature = "mutants")]
mod mutants;
mod names;
mod nemesis;
mod net;
mod oracle;
mod plan;
mod process;
mod readers;
mod run;
mod shrink;
mod wires;
mod world;

use std::cell::RefCell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use args::Args;
use plan::{Plan, Profile};
use run::{Report, run};

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
    let outcome = if args.is_bare() { suite() } else { by_hand(&args) };
    let verdict = if outcome.1 == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
        outcome.0, outcome.1
    );
    if outcome.1 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What `cargo test` runs: passed and failed.
fn suite() -> (usize, usize) {
    let none = plan::Overrides::default();
    let mut outcome = (0, 0);
    let mut note = |name: &str, passed: bool| {
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if passed { outcome.0 += 1 } else { outcome.1 += 1 }
    };
    note("same_seed_same_run", same_seed_same_run());
    for (profile, schedules) in
        [(Profile::Calm, 60), (Profile::CatchUp, 60), (Profile::Chaos, 500), (Profile::Storm, 120)]
    {
        let (failed, _) = many(profile, 1, schedules, &none, true);
        note(&format!("{}_{schedules}_schedules", profile.name()), failed == 0);
    }
    #[cfg(feature = "mutants")]
    for hunted in mutants::hunt() {
        let text = hunted.caught.as_ref().map_or(String::new(), |(schedule, by)| {
            format!(" (schedule {schedule}: {})", by.lines().next().unwrap_or_default())
        });
        note(&format!("mutant_{:?}_is_caught{text}", hunted.mutant), hunted.caught.is_some());
    }
    outcome
}

fn same_seed_same_run() -> bool {
    let none = plan::Overrides::default();
    (1..=6).all(|seed| {
        let runs = [0, 1].map(|_| run(Plan::draw(seed, Profile::Storm, &none), false));
        runs[0].facts == runs[1].facts && runs[0].failure == runs[1].failure
    })
}

fn by_hand(args: &Args) -> (usize, usize) {
    if let (Some(seed), 1) = (args.seed, args.schedules) {
        let plan = Plan::draw(seed, args.profile.unwrap_or(Profile::Chaos), &args.over);
        println!("{plan}");
        let report = run(plan, args.tell);
        report.story.iter().for_each(|line| println!("{line}"));
        println!("{:#?}", report.facts);
        if let Some(failure) = &report.failure {
            println!("{failure}");
            return (0, 1);
        }
        return (1, 0);
    }
    let mut outcome = (0, 0);
    for profile in Profile::ALL.into_iter().filter(|p| args.profile.is_none_or(|only| only == *p)) {
        let began = Instant::now();
        let first = args.seed.unwrap_or(1);
        let (failed, done) = many(profile, first, args.schedules, &args.over, args.shrink);
        let rate = done as f64 / began.elapsed().as_secs_f64() * 60.0;
        println!("{}: {done} schedules, {failed} failed, {rate:.0} a minute", profile.name());
        if failed == 0 { outcome.0 += 1 } else { outcome.1 += 1 }
    }
    outcome
}

/// Runs seeds on all cores, until one fails or, without shrinking, all of them. Says how many failed, and how many ran.
fn many(profile: Profile, first: u64, schedules: u64, over: &plan::Overrides, shrink: bool) -> (usize, u64) {
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let failures = parking_lot::Mutex::new(Vec::<Report>::new());
    let slowest = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(16);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + schedules {
                        break;
                    }
                    let report = run(Plan::draw(seed, profile, over), false);
                    slowest.fetch_max(report.facts.agreed_in, Ordering::Relaxed);
                    if report.failure.is_some() {
                        stop.store(shrink, Ordering::Relaxed);
                        failures.lock().push(report);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner();
    failures.sort_by_key(|report| report.plan.seed);
    let done = next.into_inner().min(first + schedules) - first;
    if !shrink {
        for report in &failures {
            let text = report.failure.as_deref().unwrap_or_default();
            println!("seed {}: {}", report.plan.seed, text.lines().next().unwrap_or_default());
        }
    } else if let Some(report) = failures.first() {
        shrink::report(report, over);
    }
    println!("{}: slowest agreement {:.1} s", profile.name(), slowest.into_inner() as f64 / 1e6);
    (failures.len(), done)
}
