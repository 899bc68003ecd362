//! Recovery: what was taken for the disk gives back what there was.

use proptest::prelude::*;
use tidings::core::journal::{self, Entry};
use tidings::core::replica::{Recovery, Replica};
use tidings::core::table::HashKey;
use tidings_proto::{Actor, Edit, Name, Seen, Stamp};

use crate::dump::dump;
use crate::world::{Plan, Step, World, plan, read_all, recovered, step};

const KEY: HashKey = HashKey(11, 12);

fn new_life() -> Actor {
    Actor { node: Name::new("recovered").unwrap(), incarnation: 7 }
}

/// An op with its actors by name: dot, stamp, key, edits.
type Logged = (Actor, u64, Stamp, Vec<u8>, Vec<String>);

/// What the log holds.
fn log(replica: &Replica) -> Vec<Logged> {
    let mut ops = Vec::new();
    for run in read_all(replica) {
        for item in run.iter() {
            let (seq, op) = item.unwrap();
            let name = |place: u32| if place == 0 { &run.actor } else { &run.actors[place as usize - 1] };
            let named = |edit: &Edit<'_, _>| {
                let edit: Edit<'_, (Actor, u64)> =
                    edit.map(|dot: &tidings_proto::WireDot| (name(dot.actor).clone(), dot.seq));
                format!("{edit:?}")
            };
            let edits = op.edits.iter().map(named).collect();
            ops.push((run.actor.clone(), seq, Stamp(run.base.0 + op.stamp), op.key.to_vec(), edits));
        }
    }
    ops
}

fn decoded(record: &[u8]) -> Entry {
    journal::entries(record).next().unwrap().unwrap()
}

/// Every prefix of the disk is a state that there might have been, the whole is what there was.
fn replay(plan: Plan, steps: &[Step]) {
    let mut world = World::after(plan, steps);
    for at in 0..world.nodes.len() {
        world.persist(at);
        let node = &world.nodes[at];
        let before = dump(node.replica.state());
        let whole = recovered(&node.disk, KEY, plan.log_bound, &new_life());
        assert_eq!(dump(whole.state()), before);
    }
    let node = &world.nodes[0];
    let (mut last, mut open): (_, Option<Seen>) = (Seen::default(), None);
    for upto in 0..=node.disk.len() {
        let part = recovered(&node.disk[..upto], KEY, plan.log_bound, &new_life());
        let dump = dump(part.state());
        let (stand, parked) = world.history.stand(&dump.seen);
        assert_eq!((dump.stand, dump.parked), (stand, parked));
        assert!(last <= dump.seen, "a longer prefix has seen more");
        // Between its begin and its commit a merge has not happened.
        match upto.checked_sub(1).map(|at| decoded(&node.disk[at])) {
            Some(Entry::MergeBegin { .. }) => open = Some(last.clone()),
            Some(Entry::MergeCommit | Entry::Incarnation(_)) => open = None,
            _ => {}
        }
        if let Some(before) = &open {
            assert_eq!(dump.seen, *before);
        }
        last = dump.seen;
    }
}

proptest! {
    #![proptest_config(crate::config(400))]

    #[test]
    fn every_prefix_of_the_disk_is_a_state(plan in plan(), steps in prop::collection::vec(step(), 1..100)) {
        replay(plan, &steps);
    }

    #[test]
    fn a_replay_gives_back_the_log(plan in plan(), steps in prop::collection::vec(step(), 1..100)) {
        // A life that began with an empty disk: what is in its memory is on that disk.
        let calm = |step: &Step| !matches!(step, Step::Restart(_) | Step::Restore(..));
        let steps: Vec<Step> = steps.into_iter().filter(calm).collect();
        let plan = Plan { log_bound: 1 << 20, ..plan };
        let mut world = World::after(plan, &steps);
        for at in 0..world.nodes.len() {
            world.persist(at);
            let node = &world.nodes[at];
            let replayed = recovered(&node.disk, KEY, plan.log_bound, &new_life());
            prop_assert_eq!(log(&replayed), log(&node.replica));
            prop_assert_eq!(replayed.log().bytes(), node.replica.log().bytes());
        }
    }
}

/// The disk of a node that merged, and where the merge begins in it.
fn merged() -> (World, Vec<Vec<u8>>, usize) {
    let plan = Plan { nodes: 2, log_bound: 0, skew: 0 };
    let mut world = World::new(plan);
    for n in 0..3 {
        world.step(Step::Ask(0, crate::world::Ask::Add(n, n)));
        world.step(Step::Ask(1, crate::world::Ask::Increment(n, 1)));
    }
    world.merge(0, 1);
    world.step(Step::Ask(1, crate::world::Ask::Delete(0)));
    world.persist(1);
    let disk = world.nodes[1].disk.clone();
    let begin = disk.iter().position(|r| matches!(decoded(r), Entry::MergeBegin { .. })).unwrap();
    (world, disk, begin)
}

#[test]
fn a_merge_is_replayed_where_it_took_place() {
    let (world, disk, begin) = merged();
    assert!(begin > 1 && begin + 4 < disk.len() + 1, "ops before it and after it");
    let replayed = recovered(&disk, KEY, 0, &new_life());
    assert_eq!(dump(replayed.state()), dump(world.nodes[1].replica.state()));
}

#[test]
fn a_merge_left_uncommitted_is_void_in_the_next_life() {
    let (_, disk, begin) = merged();
    let before = dump(recovered(&disk[..begin], KEY, 0, &new_life()).state());
    let mut broken = disk[..=begin + 1].to_vec();
    broken.push(Entry::Incarnation(new_life()).encode(Vec::new()));
    assert_eq!(dump(recovered(&broken, KEY, 0, &Actor { incarnation: 8, ..new_life() }).state()), before);
    // What would go on with it now is not what was written.
    for rest in [&disk[begin + 1], &Entry::MergeCommit.encode(Vec::new())] {
        let mut recovery = Recovery::new(KEY, 0);
        (1..).zip(&broken).for_each(|(number, record)| recovery.record(number, record).unwrap());
        assert!(recovery.record(1 + broken.len() as u64, rest).is_err());
    }
}

#[test]
fn stamps_go_on_above_those_of_the_last_life_with_the_clock_set_back() {
    let (world, disk, _) = merged();
    let newest = |replica: &Replica| log(replica).iter().map(|(_, _, stamp, ..)| *stamp).max();
    let before = newest(&recovered(&disk, KEY, 1 << 20, &new_life())).unwrap();
    drop(world);
    let mut replica = recovered(&disk, KEY, 1 << 20, &new_life());
    replica.write(1, tidings::core::write::Write::Set { key: b"k", value: b"v" }).unwrap();
    assert!(newest(&replica).unwrap() > before);
}
