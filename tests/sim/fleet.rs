//! Many schedules on all cores, until so many have run or so much real time is over.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::facts::Facts;
use crate::plan::{Overrides, Plan, Profile};
use crate::run::{Report, run};
use crate::shrink;

/// When enough have run.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// So many of each profile.
    Schedules(u64),
    /// So many minutes of real time are over.
    Minutes(u64),
}

/// What to run.
#[derive(Debug)]
pub struct Fleet<'a> {
    /// Taken in turn.
    pub profiles: &'a [Profile],
    /// The first seed.
    pub first: u64,
    pub until: Until,
    pub over: &'a Overrides,
    pub jobs: usize,
    /// Stop at a failure and make it small; else go on.
    pub shrink: bool,
}

/// What it came to.
#[derive(Debug)]
pub struct Outcome {
    pub failed: usize,
    pub schedules: u64,
    pub facts: Facts,
    pub took: Duration,
}

impl Outcome {
    fn a_minute(&self) -> f64 {
        self.schedules as f64 / self.took.as_secs_f64() * 60.0
    }

    /// Prints the totals.
    pub fn tell(&self) {
        println!(
            "{} schedules in {:.0} s, {} failed, {:.0} a minute",
            self.schedules,
            self.took.as_secs_f64(),
            self.failed,
            self.a_minute()
        );
        println!("{}", self.facts);
    }
}

/// As many threads as there are cores.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(16)
}

/// How often progress is told in a run by time.
const TELL: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Tally {
    failures: Vec<Report>,
    schedules: u64,
    facts: Facts,
}

impl Fleet<'_> {
    /// Runs them.
    pub fn run(&self) -> Outcome {
        let began = Instant::now();
        let (next, stop, working) = (AtomicU64::new(0), AtomicBool::new(false), AtomicUsize::new(self.jobs));
        let tally = Mutex::new(Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) && !self.is_over(began) {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let Some(plan) = self.plan(n) else { break };
                        let report = run(plan, false);
                        self.note(&tally, &stop, report);
                    }
                    working.fetch_sub(1, Ordering::Relaxed);
                });
            }
            if matches!(self.until, Until::Minutes(_)) {
                tell_progress(&tally, &working, began);
            }
        });
        let mut tally = tally.into_inner();
        tally.failures.sort_by_key(|report| report.plan.seed);
        if let Some(report) = tally.failures.first().filter(|_| self.shrink) {
            shrink::report(report, self.over);
        }
        let Tally { failures, schedules, facts } = tally;
        Outcome { failed: failures.len(), schedules, facts, took: began.elapsed() }
    }

    fn is_over(&self, began: Instant) -> bool {
        match self.until {
            Until::Schedules(_) => false,
            Until::Minutes(minutes) => began.elapsed() >= Duration::from_secs(60 * minutes),
        }
    }

    fn plan(&self, n: u64) -> Option<Plan> {
        let of = self.profiles.len() as u64;
        if matches!(self.until, Until::Schedules(schedules) if n >= schedules * of) {
            return None;
        }
        Some(Plan::draw(self.first + n / of, self.profiles[(n % of) as usize], self.over))
    }

    fn note(&self, tally: &Mutex<Tally>, stop: &AtomicBool, report: Report) {
        let mut tally = tally.lock();
        tally.schedules += 1;
        tally.facts.add(&report.facts);
        if let Some(failure) = &report.failure {
            println!("seed {} failed: {}", report.plan.seed, failure.lines().next().unwrap_or_default());
            println!("  replay: {}", shrink::command(&report.plan, self.over));
            stop.store(self.shrink, Ordering::Relaxed);
            tally.failures.push(report);
        }
    }
}

fn tell_progress(tally: &Mutex<Tally>, working: &AtomicUsize, began: Instant) {
    let mut told = Instant::now();
    while working.load(Ordering::Relaxed) > 0 {
        std::thread::sleep(Duration::from_millis(100));
        if told.elapsed() < TELL {
            continue;
        }
        told = Instant::now();
        let (schedules, failed) = {
            let tally = tally.lock();
            (tally.schedules, tally.failures.len())
        };
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        let rate = schedules as f64 / minutes;
        println!("{minutes:.0} min: {schedules} schedules, {failed} failed, {rate:.0} a minute");
    }
}
