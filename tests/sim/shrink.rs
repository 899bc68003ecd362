//! A failure made small: the same seed with fewer nodes, writes, faults and less time.

use crate::plan::{Overrides, Plan};
use crate::run::{Report, run};

/// Most runs that a failure is shrunk by.
const RUNS: usize = 80;

/// Prints a failure, shrunk, with its story and how to see it again.
pub fn report(report: &Report, over: &Overrides) {
    let plan = &report.plan;
    println!("seed {}: {}", plan.seed, report.failure.as_deref().unwrap_or_default());
    println!("{plan}");
    let over = shrink(plan, over, &first_word(report));
    let small = run(Plan::draw(plan.seed, plan.profile, &over), true);
    println!("shrunk: {}", command(plan, &over));
    small.story.iter().for_each(|line| println!("{line}"));
    println!("{}", small.failure.as_deref().unwrap_or("it does not fail any more with its story told"));
}

/// How to see a schedule again.
pub fn command(plan: &Plan, over: &Overrides) -> String {
    let mut words =
        format!("cargo test --release --test sim -- --seed {} --profile {}", plan.seed, plan.profile.name());
    let mut add = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            words += &format!(" --{name} {value}");
        }
    };
    add("nodes", over.nodes.map(|nodes| nodes as u64));
    add("nodes-up-to", over.nodes_up_to.map(|nodes| nodes as u64));
    add("ops", over.ops);
    add("seconds", over.seconds);
    add("strikes", over.strikes);
    if let Some(faults) = &over.faults {
        let names: Vec<String> = faults.iter().map(|kind| kind.name()).collect();
        words += &format!(" --faults {}", if names.is_empty() { "none".into() } else { names.join(",") });
    }
    words
}

/// What a failure is about: shrinking must not turn it into another.
fn first_word(report: &Report) -> String {
    let text = report.failure.as_deref().unwrap_or_default();
    text.split([':', ' ']).next().unwrap_or_default().to_owned()
}

/// Reduces one thing at a time for as long as the failure stays.
fn shrink(plan: &Plan, over: &Overrides, about: &str) -> Overrides {
    let mut best = over.clone();
    let mut runs = 0;
    let mut fails = |over: &Overrides| {
        runs += 1;
        let report = run(Plan::draw(plan.seed, plan.profile, over), false);
        (report.failure.is_some() && first_word(&report) == about, runs < RUNS)
    };
    loop {
        let now = Plan::draw(plan.seed, plan.profile, &best);
        let mut tries = Vec::new();
        for at in 0..now.faults.len() {
            let mut faults = now.faults.clone();
            faults.remove(at);
            tries.push(Overrides { faults: Some(faults), ..best.clone() });
        }
        let seconds = now.span / 1_000_000;
        if seconds > 1 {
            tries.push(Overrides { seconds: Some(seconds / 2), ..best.clone() });
        }
        if now.ops > 4 {
            tries.push(Overrides { ops: Some(now.ops / 2), ..best.clone() });
        }
        if now.nodes > 2 {
            tries.push(Overrides { nodes: Some(now.nodes - 1), ..best.clone() });
        }
        let strikes = now.strikes.min(64);
        if strikes > 0 && !now.faults.is_empty() {
            tries.push(Overrides { strikes: Some(strikes / 2), ..best.clone() });
            tries.push(Overrides { strikes: Some(strikes - 1), ..best.clone() });
        }
        let mut better = None;
        for over in tries {
            let (failed, more) = fails(&over);
            if failed {
                better = Some(over);
                break;
            }
            if !more {
                return best;
            }
        }
        match better {
            Some(over) => best = over,
            None => return best,
        }
    }
}
