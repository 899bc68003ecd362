//! The laws of the data model: random histories against an oracle that knows
//! what every writer had seen, the rows of the semantics one by one, the `crdts`
//! crate as an independent reference, and the algebra of merge and recovery.
//!
//! Deterministic: the same cases on every run. `TIDINGS_CASES` sets how many.

#![allow(unreachable_pub)] // A test has no outside; `pub` here means: used by the other modules.

mod dump;
mod histories;
mod merges;
mod oracle;
mod recovery;
mod reference;
mod regressions;
mod residue;
mod rows;
mod snapshots;
mod world;

use proptest::test_runner::{Config, RngSeed};

/// The configuration of a property: `cases` unless the environment asks for another number.
fn config(cases: u32) -> Config {
    let asked = std::env::var("TIDINGS_CASES").ok().and_then(|cases| cases.parse().ok());
    Config {
        cases: asked.unwrap_or(cases),
        rng_seed: RngSeed::Fixed(0x71d1_4945),
        failure_persistence: None,
        ..Config::default()
    }
}
