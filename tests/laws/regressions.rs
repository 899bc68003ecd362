//! What once went wrong, by name.

use tidings::core::replica::Replica;
use tidings::core::write::{Write, WriteError, Written};
use tidings_proto::SeenEntries;

use crate::dump::{Shown, dump, shown};
use crate::world::{read_all, replica};

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
