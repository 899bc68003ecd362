//! The algebra of merge, on states out of random histories.

use crdts::{CmRDT, CvRDT};
use proptest::prelude::*;
use tidings::core::block::BlockBuilder;
use tidings::core::state::{ApplyError, State};
use tidings_proto::Run;

use crate::dump::{dump, recount};
use crate::world::{Plan, Step, World, plan, read_all, replica, stage, step};

fn join<T: CvRDT + Clone>(a: &T, b: &T) -> T {
    a.validate_merge(b).unwrap();
    let mut joined = a.clone();
    CvRDT::merge(&mut joined, b.clone());
    joined
}

fn laws(plan: Plan, steps: &[Step]) {
    let world = World::after(plan, steps);
    let states: Vec<&State> = world.nodes.iter().map(|node| node.replica.state()).collect();
    for a in &states {
        assert_eq!(dump(&join(*a, a)), dump(a), "idempotent");
        assert_eq!(dump(&through_blocks(a)), dump(a), "blocks lose nothing");
        // Staged for the one, whose actors are numbered alike, and for another.
        for (n, how) in [(9, "taken as it is"), (8, "built anew")] {
            let blank = join(replica(n, 0).state(), &through_blocks(a));
            assert_eq!((dump(&blank), *blank.tallies()), (dump(a), *a.tallies()), "{how}");
        }
        for b in &states {
            let ab = join(*a, b);
            let joined = dump(&ab);
            assert_eq!(joined, dump(&join(*b, a)), "commutative");
            assert_eq!(joined, dump(&join(&ab, b)), "absorbing");
            assert_eq!(joined, dump(&join(*b, &ab)), "absorbed");
            assert_eq!(*ab.tallies(), recount(&ab, &joined.stand));
            let (stand, parked) = world.history.stand(&joined.seen);
            assert_eq!((&joined.stand, &joined.parked), (&stand, &parked), "exact");
            for c in &states {
                assert_eq!(dump(&join(&ab, c)), dump(&join(*a, &join(*b, c))), "associative");
            }
        }
    }
}

/// A merge brings what the ops would have brought.
fn merges_are_ops(plan: Plan, steps: &[Step]) {
    let plan = Plan { log_bound: 1 << 20, ..plan };
    let world = World::after(plan, steps);
    for (a, b) in world.nodes.iter().zip(world.nodes.iter().skip(1)) {
        let joined = join(a.replica.state(), b.replica.state());
        let mut applied = a.replica.state().clone();
        for run in read_all(&b.replica) {
            if applied.validate_op(&run).is_ok() {
                CmRDT::apply(&mut applied, run);
            }
        }
        // A log begins after what came by a merge; then ops alone cannot bring all.
        if applied.seen_clock() == joined.seen_clock() {
            assert_eq!(dump(&applied), dump(&joined));
        }
    }
}

fn through_blocks(state: &State) -> State {
    let mut builder = BlockBuilder::new(state.actors());
    state.cells().for_each(|cells| builder.push(cells));
    let mut begun = replica(8, 0).begin_snapshot().unwrap();
    begun.seen = state.seen_entries();
    begun.parked = tidings::core::block::parked_states(state.parked(), state.actors());
    stage(replica(9, 0).state(), &begun, &builder.finish())
}

proptest! {
    #![proptest_config(crate::config(800))]

    #[test]
    fn merge_is_a_join(plan in plan(), steps in prop::collection::vec(step(), 1..60)) {
        laws(Plan { nodes: plan.nodes.min(3), ..plan }, &steps);
    }

    #[test]
    fn merge_brings_what_the_ops_bring(plan in plan(), steps in prop::collection::vec(step(), 1..80)) {
        merges_are_ops(plan, &steps);
    }
}

#[test]
fn an_op_ahead_of_its_turn_is_not_valid() {
    let mut from = replica(0, 1 << 20);
    for _ in 0..3 {
        from.write(1, tidings::core::write::Write::Increment { key: b"k", by: 1 }).unwrap();
    }
    let run = |first| -> Run { crate::world::read(&from, from.own(), first, 3).remove(0) };
    let mut state = replica(1, 0).state().clone();
    let gap = ApplyError::Gap { actor: from.actor().clone(), expected: 1, got: 2 };
    assert_eq!(state.validate_op(&run(2)), Err(gap));
    assert_eq!(state.validate_op(&run(1)), Ok(()));
    CmRDT::apply(&mut state, run(1));
    let once = dump(&state);
    assert_eq!(state.validate_op(&run(2)), Ok(()));
    CmRDT::apply(&mut state, run(2));
    assert_eq!(dump(&state), once, "applied once, however often it comes");
}
