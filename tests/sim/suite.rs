//! What `cargo test` runs: a fixed set of seeds of each profile, and the mutants if they are built in.

use crate::args::Args;
use crate::fleet::{Fleet, Until};
use crate::plan::{Overrides, Plan, Profile};
use crate::run::run;

/// How many schedules of each profile.
const SCHEDULES: [(Profile, u64); 4] =
    [(Profile::Calm, 200), (Profile::CatchUp, 200), (Profile::Chaos, 2_000), (Profile::Storm, 600)];

/// Runs the tests that are wanted, or lists them. Says whether all passed.
pub fn run_all(args: &Args) -> bool {
    let mut names = vec!["same_seed_same_run".to_owned()];
    names.extend(SCHEDULES.map(|(profile, schedules)| format!("{}_{schedules}_schedules", profile.name())));
    #[cfg(feature = "mutants")]
    names.extend(crate::mutants::names());
    let all = names.len();
    names.retain(|name| args.wants(name));
    if args.list {
        names.iter().for_each(|name| println!("{name}: test"));
        println!("\n{} tests, 0 benchmarks", names.len());
        return true;
    }
    println!("\nrunning {} tests", names.len());
    let mut outcome = (0, 0);
    let mut note = |name: &str, passed: bool| {
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if passed { outcome.0 += 1 } else { outcome.1 += 1 }
    };
    if args.wants("same_seed_same_run") {
        note("same_seed_same_run", same_seed_same_run());
    }
    for (profile, schedules) in SCHEDULES {
        let name = format!("{}_{schedules}_schedules", profile.name());
        if args.wants(&name) {
            note(&name, schedules_pass(profile, schedules, args.jobs));
        }
    }
    #[cfg(feature = "mutants")]
    crate::mutants::hunt(args, &mut note);
    let verdict = if outcome.1 == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out",
        outcome.0,
        outcome.1,
        all - names.len()
    );
    outcome.1 == 0
}

fn same_seed_same_run() -> bool {
    let none = Overrides::default();
    (1..=6).all(|seed| {
        let runs = [0, 1].map(|_| run(Plan::draw(seed, Profile::Storm, &none), false));
        runs[0].facts == runs[1].facts && runs[0].failure == runs[1].failure
    })
}

/// All pass, and together they had what the profile is for.
fn schedules_pass(profile: Profile, schedules: u64, jobs: usize) -> bool {
    let over = &Overrides::default();
    let until = Until::Schedules(schedules);
    let outcome = Fleet { profiles: &[profile], first: 1, until, over, jobs, shrink: true }.run();
    let lacks = outcome.facts.lacks(profile);
    if !lacks.is_empty() {
        println!("{}: not once in {schedules} schedules: {}", profile.name(), lacks.join(", "));
    }
    println!("{}: slowest agreement {:.1} s", profile.name(), outcome.facts.agreed_in as f64 / 1e6);
    outcome.failed == 0 && lacks.is_empty()
}
