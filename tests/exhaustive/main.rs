//! Small worlds, all of them: three replicas, a few writes, and every order in which they can be written and delivered,
//! with duplicates, merges of whole states, and returns from older images of a disk. Chance plays no part; what
//! is found wrong here is wrong in a handful of steps, which the failure prints.
//!
//! `TIDINGS_WRITES` says how many writes a world sees, and `TIDINGS_USES` how often a kept image is merged or restored.

#![allow(unreachable_pub)] // A test has no outside; `pub` here means: used by the other modules.
#![expect(clippy::disallowed_types, reason = "of a set of worlds nothing is asked but whether one is in it")]

#[path = "../laws/dump.rs"]
mod dump;
mod nodes;
#[path = "../laws/oracle.rs"]
mod oracle;
mod search;

use nodes::Ask::{self, Add, Delete, GIncrement, Increment, Remove, Set};
use search::explore;

/// Explores all worlds of these writes and says how many there were.
fn all(name: &str, asks: &[Ask], writes: u8, uses: u8) {
    let asked =
        |name: &str, default: u8| std::env::var(name).map_or(default, |n| n.parse().expect("a small number"));
    let (writes, uses) = (asked("TIDINGS_WRITES", writes), asked("TIDINGS_USES", uses));
    let report = explore(asks, writes, uses);
    println!("{name}, {writes} writes, {uses} uses of an image: {report}");
    assert!(report.settled > 0, "some worlds come to rest");
}

#[test]
fn sets() {
    all("sets", &[Add("e"), Add("f"), Remove("e"), Delete], 3, 0);
}

#[test]
fn sets_with_an_older_image() {
    all("sets with an image", &[Add("e"), Remove("e"), Delete], 3, 1);
}

#[test]
fn strings() {
    all("strings", &[Set("x"), Set("7"), Increment(5), Delete], 3, 0);
}

#[test]
fn strings_with_an_older_image() {
    all("strings with an image", &[Set("7"), Increment(5), Delete], 2, 2);
}

#[test]
fn kinds_in_conflict() {
    all("kinds", &[Set("x"), Add("e"), GIncrement(3), Delete], 3, 0);
}

#[test]
fn kinds_in_conflict_with_an_older_image() {
    all("kinds with an image", &[Set("x"), Add("e"), GIncrement(3), Delete], 2, 1);
}
