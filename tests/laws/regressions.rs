//! What once went wrong, by name.

use tidings::core::block::BlockBuilder;
use tidings::core::journal::Meta;
use tidings::core::parked::Room;
use tidings::core::replica::{Recovery, Replica};
use tidings::core::snapshot::Step;
use tidings::core::state::ApplyError;
use tidings::core::table::HashKey;
use tidings::core::write::{Write, WriteError, Written};
use tidings_proto::{Actor, SeenEntries};

use crate::dump::{Shown, dump, shown};
use crate::world::{read, read_all, replica};

const WALL: u64 = 1_000_000;

fn write(replica: &mut Replica, write: Write<'_>) -> Written {
    replica.write(WALL, write).unwrap()
}

/// Every op apart, in the order of its author.
fn deliver(from: &Replica, to: &mut Replica) {
    for run in read_all(from) {
        assert_eq!(to.receive(&run, WALL, |_| {}).stopped, None);
    }
}

/// Two processes run as one incarnation (a machine was cloned while it ran). The
/// one that hears of it must not number its next write as the other did.
#[test]
fn an_incarnation_that_was_overtaken_writes_no_more() {
    let (mut one, mut twin) = (replica(0, 1 << 20), replica(0, 1 << 20));
    write(&mut twin, Write::Set { key: b"k", value: b"twin" });
    deliver(&twin, &mut one);
    assert!(one.is_overtaken() && !twin.is_overtaken());
    let refused = one.write(WALL, Write::Set { key: b"k", value: b"one" });
    assert!(matches!(refused, Err(WriteError::Stopped(_))), "{refused:?}");
    one.close_reset(WALL);
    assert_eq!(one.own_seq(), 1);

    one.begin_incarnation(99).unwrap();
    write(&mut one, Write::Set { key: b"k", value: b"one" });
    deliver(&one, &mut twin);
    assert_eq!(dump(one.state()), dump(twin.state()));
    assert_eq!(shown(twin.state(), b"k"), Shown::Bytes(b"one".to_vec()));
}

/// The same, heard of by a merge.
#[test]
fn an_incarnation_that_a_merge_overtakes_writes_no_more() {
    let (mut one, mut twin) = (replica(0, 1 << 20), replica(0, 1 << 20));
    write(&mut twin, Write::Increment { key: b"k", by: 1 });
    let seen = SeenEntries::from(&twin.state().seen_clock());
    one.merge(twin.state(), seen, Vec::new(), Vec::new()).unwrap();
    assert!(one.write(WALL, Write::Increment { key: b"k", by: 1 }).is_err());
    one.begin_incarnation(99).unwrap();
    assert_eq!(write(&mut one, Write::Increment { key: b"k", by: 1 }), Written::Value(2));
}

/// A run that is half known is counted once, op by op.
#[test]
fn duplicates_are_not_counted_as_refused() {
    let (mut from, mut to) = (replica(0, 1 << 20), replica(1, 1 << 20));
    for value in [b"1", b"2", b"3"] {
        write(&mut from, Write::Set { key: b"k", value });
    }
    let mut run = read_all(&from).remove(0);
    let first = read(&from, from.own(), 1, 1).remove(0);
    to.receive(&first, WALL, |_| {});
    // The last op is broken off.
    run.ops.truncate(run.ops.len() - 1);
    assert!(to.receive(&run, WALL, |_| {}).stopped.is_some());
    let counts = to.counts();
    assert_eq!((counts.received, counts.duplicate, counts.refused), (2, 1, 1));
}

/// A snapshot for a checkpoint begins with ops applied that reach the log on
/// disk only after it; a replay meets them twice.
#[test]
fn a_replay_over_a_checkpoint_that_is_ahead_changes_nothing() {
    let mut replica = replica(0, 1 << 20);
    for n in 0..5_u8 {
        write(&mut replica, Write::Add { key: b"k", elements: &[&[n]] });
        write(&mut replica, Write::Increment { key: b"n", by: n.into() });
    }
    write(&mut replica, Write::Delete { key: b"n" });
    let begun = replica.begin_snapshot().unwrap();
    let mut recovery = Recovery::new(HashKey(3, 4), 1 << 20);
    let meta = Meta { seen: begun.seen.clone(), parked: begun.parked.clone(), ..Meta::default() };
    recovery.meta(meta).unwrap();
    while let Step::Block(block) = replica.step_snapshot(begun.id) {
        recovery.block(&block).unwrap();
    }
    write(&mut replica, Write::Remove { key: b"k", elements: &[&[0]] });
    for (number, record) in (1..).zip(replica.take_records()) {
        recovery.record(number, &record).unwrap();
    }
    let actor = Actor { incarnation: 99, ..replica.actor().clone() };
    let recovered = recovery.finish(&actor, 500).unwrap();
    assert_eq!(dump(recovered.state()), dump(replica.state()));
}

/// A SET over a value that came by a merge, on a node whose clock is behind: it
/// must lose no more than it would have lost had the value come as an op.
#[test]
fn a_set_outstamps_what_a_merge_brought() {
    let [mut ahead, mut behind, mut third] = [0, 1, 2].map(|n| replica(n, 1 << 20));
    ahead.write(WALL + 400, Write::Set { key: b"k", value: b"ahead" }).unwrap();
    behind.merge(ahead.state(), ahead.state().seen_entries(), Vec::new(), Vec::new()).unwrap();
    write(&mut behind, Write::Set { key: b"k", value: b"later" });
    third.write(WALL + 200, Write::Set { key: b"k", value: b"concurrent" }).unwrap();
    deliver(&ahead, &mut third);
    let run = read(&behind, behind.own(), 1, 1).remove(0);
    assert_eq!(third.receive(&run, WALL, |_| {}).stopped, None);
    assert_eq!(shown(third.state(), b"k"), Shown::Bytes(b"later".to_vec()));
}

/// A SET is one op, whatever it takes away: no reader elsewhere finds the key
/// gone in between.
#[test]
fn a_set_over_a_set_is_one_op() {
    for size in [10, 300 << 10] {
        let mut replica = replica(0, 1 << 20);
        write(&mut replica, Write::Add { key: b"k", elements: &[b"m"] });
        let value = vec![b'v'; size];
        write(&mut replica, Write::Set { key: b"k", value: &value });
        assert_eq!(replica.own_seq(), 2);
        assert_eq!(shown(replica.state(), b"k"), Shown::Bytes(value));
    }
}

/// A merge was refused for removals that it would have settled itself, so two that had no more
/// room and lacked each other's writes could not help each other.
#[test]
fn a_merge_needs_no_room_for_what_it_settles() {
    let [mut w, mut x, mut y, mut one, mut two] = [0, 1, 2, 3, 4].map(|node| replica(node, 1 << 20));
    write(&mut w, Write::Set { key: b"w", value: b"1" });
    write(&mut y, Write::Set { key: b"y", value: b"1" });
    deliver(&w, &mut x);
    deliver(&y, &mut x);
    write(&mut x, Write::Delete { key: b"w" });
    write(&mut x, Write::Delete { key: b"y" });
    for (lacking, other) in [(&mut one, &y), (&mut two, &w)] {
        lacking.set_parked_room(Room { removals: 1, ..Room::default() });
        deliver(other, lacking);
        let own = read_all(&x).into_iter().filter(|run| run.actor == *x.actor());
        own.for_each(|run| assert_eq!(lacking.receive(&run, WALL, |_| {}).stopped, None));
        assert_eq!(lacking.state().parked().len(), 1);
    }
    let seen = SeenEntries::from(&two.state().seen_clock());
    one.merge(two.state(), seen, two.parked_states(), Vec::new()).unwrap();
    assert!(one.state().parked().is_empty() && one.state().is_empty());
}

/// Where ops are refused for lack of room a merge may still take place.
#[test]
fn a_merge_may_leave_twice_as_much_parked_as_ops() {
    let [mut w, mut x, mut one] = [0, 1, 2].map(|node| replica(node, 1 << 20));
    for key in [b"a", b"b", b"c"] {
        write(&mut w, Write::Set { key, value: b"1" });
        deliver(&w, &mut x);
        write(&mut x, Write::Delete { key });
    }
    one.set_parked_room(Room { removals: 1, ..Room::default() });
    let own: Vec<_> = read_all(&x).into_iter().filter(|run| run.actor == *x.actor()).collect();
    let stopped = one.receive(&own[0], WALL, |_| {}).stopped;
    assert_eq!((stopped, one.state().parked().len()), (Some(ApplyError::ParkedFull), 1));
    for (parked, fits) in [(2, true), (3, false)] {
        let mut from = replica(4, 1 << 20);
        from.set_parked_room(Room { removals: parked, ..Room::default() });
        own.iter().for_each(|run| drop(from.receive(run, WALL, |_| {})));
        let seen = SeenEntries::from(&from.state().seen_clock());
        let merged = one.clone().merge(from.state(), seen, from.parked_states(), Vec::new());
        assert_eq!(merged.is_ok(), fits, "{parked} parked: {merged:?}");
    }
}

/// A node that holds next to nothing takes what is staged as it is, and what it has itself merged in: the same
/// as any merge gives, also where something that is staged has been removed here.
#[test]
fn what_is_taken_as_it_is_is_what_a_merge_gives() {
    for removed_here in [false, true] {
        let [mut one, mut many] = [0, 1].map(|node| replica(node, 1 << 20));
        write(&mut many, Write::Set { key: b"both", value: b"old" });
        write(&mut many, Write::Add { key: b"set", elements: &[b"a", b"b"] });
        write(&mut many, Write::Increment { key: b"sum", by: 5 });
        deliver(&many, &mut one);
        write(&mut one, Write::Set { key: b"both", value: b"here" });
        write(&mut one, Write::Remove { key: b"set", elements: &[b"a"] });
        write(&mut one, Write::Increment { key: b"sum", by: 1 });
        if removed_here {
            write(&mut one, Write::Delete { key: b"sum" });
        }
        write(&mut many, Write::Set { key: b"both", value: b"there" });
        write(&mut many, Write::Add { key: b"set", elements: &[b"c"] });
        for n in 0..100 {
            write(&mut many, Write::Set { key: format!("key {n}").as_bytes(), value: b"v" });
        }
        let mut there = many.clone();
        merge_staged(&mut there, &one);
        merge_staged(&mut one, &many);
        assert_eq!(dump(one.state()), dump(there.state()));
        assert_eq!(one.state().tallies(), there.state().tallies());
        assert_eq!(one.state().fingerprint(), one.state().recount());
        assert_eq!(one.state().len(), if removed_here { 102 } else { 103 });
    }
}

/// All that `from` holds, staged as it comes over the wire.
fn merge_staged(to: &mut Replica, from: &Replica) {
    let seen = SeenEntries::from(&from.state().seen_clock());
    let mut staged = to.state().staged(&seen, &from.parked_states()).unwrap();
    let mut blocks = BlockBuilder::new(from.state().actors());
    from.state().cells().for_each(|cells| blocks.push(cells));
    blocks.finish().iter().for_each(|block| staged.load(block).unwrap());
    to.merge(&staged, seen, from.parked_states(), Vec::new()).unwrap();
}
