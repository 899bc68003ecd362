//! No residue: what has been deleted everywhere leaves nothing behind but spent
//! contributions of dead incarnations.

use proptest::prelude::*;

use crate::dump::{Stand, dump};
use crate::world::{Ask, Plan, Step, World, plan, step};

/// Flushes, lets all hear of it, and says what is left.
fn flushed(plan: Plan, steps: &[Step]) {
    let mut world = World::after(plan, steps);
    world.heal();
    world.step(Step::Ask(0, Ask::Flush));
    world.heal();
    // Owners hear that their contributions are gone, and say so.
    (0..world.nodes.len()).for_each(|at| world.close(at));
    world.heal();
    for node in &world.nodes {
        let dump = dump(node.replica.state());
        assert_eq!(dump.stand, Stand::new());
        for (_, _, actor) in dump.parts.keys() {
            let lives = world.nodes.iter().any(|node| node.replica.actor() == actor);
            assert!(!lives, "{actor} lives and keeps a spent contribution");
        }
    }
}

proptest! {
    #![proptest_config(crate::config(1_500))]

    #[test]
    fn what_is_deleted_leaves_nothing_behind(plan in plan(), steps in prop::collection::vec(step(), 1..80)) {
        flushed(plan, &steps);
    }
}
