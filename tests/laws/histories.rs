//! Random histories: after every step each node shows exactly what the oracle
//! says, and in the end all show the same.

use proptest::prelude::*;

use crate::world::{Plan, Step, World, plan, step};

fn run(plan: Plan, steps: &[Step]) {
    let mut world = World::after(plan, steps);
    world.heal();
}

proptest! {
    #![proptest_config(crate::config(6_000))]

    #[test]
    fn every_history_shows_what_its_writers_saw(plan in plan(), steps in prop::collection::vec(step(), 1..120)) {
        run(plan, &steps);
    }
}
